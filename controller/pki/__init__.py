"""The fleet's private certificates: three authorities, so that none can stand in for another.

    sip      nodes and edges, for SIP over TLS in both directions
    control  the control links: AMI, event socket, Redis, gate and vault, and the roles as clients
    people   operators at the gate, nothing else

authority.py signs, wanted.py says which certificates a config needs, store.py keeps the files,
contexts.py makes TLS contexts of them.
"""

"""A phone's settings in the forms that phones read. Pure; the password passes through, no more.

Every form lists the nodes in the phone's own order (media/phones.py), so that a phone whose node
dies goes to the next: baresip by accounts of falling priority (serreg), Linphone by one account a
node, a desk phone by SIP server 1, 2, …. With `phones.domain` in the config they get that name
alone and find the nodes by DNS SRV, except baresip, whose serreg does it without DNS.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from controller.config import Config
from controller.errors import ConfigError
from controller.media.phones import Server, caller_name, servers
from controller.model import MediaPolicy
from controller.pki.store import open_store

SERVERS_MAX = 8
_BARESIP = {
    ("srtp-sdes", MediaPolicy.REQUIRE): "srtp-mand",
    ("srtp-sdes", MediaPolicy.PREFER): "srtp",
    ("dtls-srtp", MediaPolicy.REQUIRE): "dtls_srtp",
    ("dtls-srtp", MediaPolicy.PREFER): "dtls_srtp",
}
DESK_SERVERS_MAX = 2  # what the desk phones in use take for one account


@dataclass(frozen=True)
class Credentials:
    """What a phone logs in with; shown once."""

    name: str
    display: str
    region: str
    policy: MediaPolicy
    realm: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials({self.name!r})"


@dataclass(frozen=True)
class Signalling:
    """How phones reach the nodes. media: the config's word for it; ca: PEM of who signed the nodes.

    Without TLS it is TCP: a phone sees at once that its node is gone, by UDP after 32 s.
    """

    transport: str = "tcp"
    media: str = "plain"
    ca: str = ""


def signalling(config: Config) -> Signalling:
    """Of the config. Reads the authority's certificate, which is public; ConfigError without it."""
    security = config.security
    if security.signalling != "tls":
        return Signalling(media=security.media)
    path = open_store(config).ca("sip")
    try:
        ca = path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the nodes' authority cannot be read: {error}",
            file=str(path),
            hint="pbxctl pki renew makes it",
        ) from error
    return Signalling("tls", security.media, ca)


def files(config: Config, phone: Credentials, how: Signalling) -> dict[str, str]:
    """Relative path to text; all of them hold the password."""
    known = servers(config, phone.region, phone.name)[:SERVERS_MAX]
    return {
        "baresip/accounts": baresip_accounts(config, phone, known, how),
        "baresip/config": baresip_config(how),
        "linphone.xml": linphone(config, phone, known, how),
        # desk phones have no DTLS-SRTP
        **({} if how.media == "dtls-srtp" else {"desk.cfg": desk(config, phone, known, how)}),
    } | ({"baresip/ca.pem": how.ca, "ca.pem": how.ca} if how.ca else {})


def uri(config: Config, phone: Credentials, how: Signalling) -> str:
    """What the QR code says: a SIP URI with the password as its user part's (RFC 3261, 19.1.1)."""
    known = servers(config, phone.region, phone.name)
    host = config.phones.domain or (known[0].address if known else config.realm)
    return f"sip:{phone.name}:{phone.password}@{host};transport={how.transport}"


def baresip_accounts(
    config: Config, phone: Credentials, known: list[Server], how: Signalling
) -> str:
    """One account a node, tried in order: the first has priority 0 (module serreg)."""
    name = caller_name(phone.display) or phone.name
    media = f";mediaenc={_BARESIP[how.media, phone.policy]}" if how.media != "plain" else ""
    every_s = config.phones.register_s
    lines = [
        f'"{name}" <sip:{phone.name}@{server.address};transport={how.transport}>'
        f";auth_user={phone.name};auth_pass={phone.password};regint={every_s}"
        f";prio={priority};fbregint={every_s if priority else 0}{media}\n"
        for priority, server in enumerate(known)
    ]
    return "".join(lines)


def baresip_config(how: Signalling) -> str:
    """The lines that a baresip needs besides those of its sound devices."""
    lines = [
        "# Add to ~/.baresip/config, which has your sound devices.",
        *(["# Give sip_cafile the full path of ca.pem."] if how.ca else []),
        f"sip_trans_def\t\t{how.transport}",
        *(["sip_cafile\t\tca.pem", "sip_verify_server\tyes"] if how.ca else []),
        *(["module\t\t\tsrtp.so", "module\t\t\tdtls_srtp.so"] if how.media != "plain" else []),
        "module\t\t\tg711.so",
        "module_tmp\t\taccount.so",
        "module_app\t\tserreg.so",
        "module_app\t\tmenu.so",
    ]
    return "\n".join(lines) + "\n"


def linphone(config: Config, phone: Credentials, known: list[Server], how: Signalling) -> str:
    """Linphone's remote provisioning XML (schema lpconfig.xsd of liblinphone)."""
    hosts = [config.phones.domain] if config.phones.domain else [s.address for s in known]
    sections = []
    for number, host in enumerate(hosts):
        sections.append(
            _section(
                f"proxy_{number}",
                {
                    "reg_proxy": f"<sip:{host};transport={how.transport}>",
                    "reg_route": f"<sip:{host};transport={how.transport};lr>",
                    "reg_identity": f"{_quoted(phone)} <sip:{phone.name}@{host}>",
                    "reg_expires": str(config.phones.register_s),
                    "reg_sendregister": "1",
                    # UDP/TLS/RTP/SAVPF, as the nodes want it with DTLS
                    "avpf": "1" if how.media == "dtls-srtp" else "0",
                    "realm": phone.realm,
                    "quality_reporting_enabled": "0",
                },
            )
        )
    auth = {"username": phone.name, "passwd": phone.password, "realm": phone.realm}
    sections.append(_section("auth_info_0", auth))
    encryption = {"srtp-sdes": "srtp", "dtls-srtp": "dtls", "plain": "none"}[how.media]
    sections.append(
        _section(
            "sip",
            {
                "default_proxy": "0",
                "media_encryption": encryption,
                "media_encryption_mandatory": "1" if _strict(phone, how) else "0",
                "verify_server_certs": "1",
                "verify_server_cn": "1",
            },
        )
    )
    body = "".join(sections)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<config xmlns="http://www.linphone.org/xsds/lpconfig.xsd">\n' + body + "</config>\n"
    )


def _section(name: str, entries: dict[str, str]) -> str:
    lines = [
        f'    <entry name={quoteattr(key)} overwrite="true">{escape(value)}</entry>\n'
        for key, value in entries.items()
    ]
    return f"  <section name={quoteattr(name)}>\n{''.join(lines)}  </section>\n"


def _quoted(phone: Credentials) -> str:
    return f'"{caller_name(phone.display) or phone.name}"'


def _strict(phone: Credentials, how: Signalling) -> bool:
    return phone.policy is MediaPolicy.REQUIRE and how.media != "plain"


def desk(config: Config, phone: Credentials, known: list[Server], how: Signalling) -> str:
    """A desk phone's account in the key = value form of Yealink (and those that read it)."""
    transport = {"udp": 0, "tcp": 1, "tls": 2}[how.transport]
    if config.phones.domain:
        transport = 3  # DNS NAPTR and SRV say it
    srtp = 0 if how.media == "plain" else 2 if _strict(phone, how) else 1
    lines = [
        "#!version:1.0.0.1",
        "account.1.enable = 1",
        f"account.1.label = {phone.name}",
        f"account.1.display_name = {caller_name(phone.display) or phone.name}",
        f"account.1.user_name = {phone.name}",
        f"account.1.auth_name = {phone.name}",
        f"account.1.password = {phone.password}",
        f"account.1.srtp_encryption = {srtp}",
        f"account.1.transport = {transport}",
    ]
    if config.phones.domain:
        hosts = [(config.phones.domain, 0)]
    else:
        hosts = [(server.host, server.port) for server in known[:DESK_SERVERS_MAX]]
    for number, (host, port) in enumerate(hosts, 1):
        at = f"account.1.sip_server.{number}"
        lines += [
            f"{at}.address = {host}",
            f"{at}.port = {port}",
            f"{at}.transport_type = {transport}",
            f"{at}.expires = {config.phones.register_s}",
            f"{at}.retry_counts = 2",
        ]
    lines += [
        "account.1.fallback.redundancy_type = 1",
        "account.1.fallback.timeout = 30",
        "security.trust_certificates = 1",
    ]
    return "\n".join(lines) + "\n"


def dns_zone(config: Config, region: str, how: Signalling) -> str:
    """SRV records (RFC 2782, RFC 3263) by which the phones of a region find its nodes.

    Priority: the phones' own region, then its spill regions in order. Weight: as in the config.
    """
    domain = config.phones.domain or "sip.example.net"
    service = "_sips._tcp" if how.transport == "tls" else f"_sip._{how.transport}"
    order = {config.nodes[s.node].region: 0 for s in servers(config, region, "")}
    known = servers(config, region, "")
    lines = [f"; phones of {region}"]
    if not config.phones.domain:
        lines.append(
            "; phones.domain is not set: this name is an example, and no phone asks for it"
        )
    lines.append(f"$ORIGIN {domain}.")
    addresses = []
    for server in known:
        priority = 10 * (1 + list(order).index(config.nodes[server.node].region))
        weight = min(65535, max(1, round(10 * server.weight)))
        lines.append(f"{service} 60 IN SRV {priority} {weight} {server.port} {server.node}")
        kind = "AAAA" if ":" in server.host else "A"
        try:
            ipaddress.ip_address(server.host)
            addresses.append(f"{server.node} 60 IN {kind} {server.host}")
        except ValueError:
            addresses.append(f"{server.node} 60 IN CNAME {server.host}.")
    return "\n".join([*lines, *addresses]) + "\n"

"""Odd but valid and plainly invalid messages, in the spirit of RFC 4475 (the texts are our own)."""

from __future__ import annotations

from collections.abc import Callable

from tests.campaigns.packet import SDP, Address, Packet, new_via, request

Torture = Callable[[Address, Address, bytes], bytes]
TORTURES: dict[str, Torture] = {}


def _add(name: str, change: Callable[[Packet], Packet | bytes]) -> None:
    def make(own: Address, peer: Address, number: bytes) -> bytes:
        changed = change(request(own, peer, number))
        return changed.render() if isinstance(changed, Packet) else changed

    TORTURES[name] = make


def _start(packet: Packet, start: bytes) -> Packet:
    packet.start = start
    return packet


def _method(packet: Packet, method: bytes) -> Packet:
    number = packet.get(b"CSeq").split()[0]
    packet.set(b"CSeq", number + b" " + method)
    return _start(packet, method + b" " + packet.start.split(b" ", 1)[1])


def _uri(packet: Packet, uri: bytes) -> Packet:
    return _start(packet, b"INVITE " + uri + b" SIP/2.0")


def _more(packet: Packet, *fields: tuple[bytes, bytes]) -> Packet:
    packet.fields += fields
    return packet


def _line(packet: Packet, old: bytes, new: bytes) -> bytes:
    return packet.render().replace(old, new, 1)


def _folded(packet: Packet) -> bytes:
    raw = packet.render().replace(b"From: ", b"f   :\r\n\t ").replace(b"To: ", b"t:\r\n    ")
    raw = raw.replace(b"Via: SIP/2.0/UDP ", b"v:  SIP  / 2.0\r\n /   UDP\r\n    ")
    return raw.replace(b"Max-Forwards: 70", b"mAx-fOrWaRdS : 0068")


# Odd, and valid.
_add("folded_and_compact", _folded)
_add("method_of_every_token_character", lambda p: _method(p, b"!odd-Method0123456789_*+`.%~'"))
_add("escaped_request_uri", lambda p: _uri(p, b"sip:%2B3397210%30001@127.0.0.1"))
_add("nul_escaped_in_user", lambda p: _uri(p, b"sip:null-%00-null@127.0.0.1"))
_add("semicolon_in_user", lambda p: _uri(p, b"sip:+33972100001;day=tuesday@127.0.0.1"))
_add(
    "unknown_transports_in_vias",
    lambda p: _more(
        p,
        *[
            (b"Via", b"SIP/2.0/%s t%d.example;branch=z9hG4bK%d" % (kind, n, n))
            for n, kind in enumerate((b"TLS", b"SCTP", b"TCP", b"NOVEL"))
        ],
    ),
)
_add("many_tiny_headers", lambda p: _more(p, *[(b"X", b"")] * 300))
_add(
    "multipart_with_nul_bytes",
    lambda p: Packet(
        p.start,
        p.set(b"Content-Type", b'multipart/mixed;boundary="7a9cbec02ceef655"').fields,
        b"--7a9cbec02ceef655\r\nContent-Type: text/plain\r\n\r\nHello\r\n--7a9cbec02ceef655\r\n"
        b"Content-Type: application/octet-stream\r\n\r\n\0\1\2\xff\r\n--7a9cbec02ceef655--\r\n",
    ),
)
_add("multipart_without_boundary", lambda p: p.set(b"Content-Type", b"multipart/mixed"))
_add(
    "multipart_that_never_ends",
    lambda p: Packet(
        p.start, p.set(b"Content-Type", b"multipart/mixed;boundary=x").fields, b"--x\r\nA: b"
    ),
)
_add(
    "display_name_in_utf8",
    lambda p: p.set(b"From", '"\u00c9l\u00e9onore \U0001f600" <sip:+33140000001@x>;tag=u'.encode()),
)
_add(
    "quotes_and_backslashes",
    lambda p: p.set(b"From", b'"J Rosenberg \\\\\\"" <sip:jdr@example.com>;tag=98asjd8'),
)
_add("tel_uri", lambda p: _uri(p, b"tel:+33972100001"))
_add("sips_uri", lambda p: _uri(p, b"sips:+33972100001@127.0.0.1"))
_add(
    "old_style_without_branch_and_tag",
    lambda p: p.set(b"Via", p.get(b"Via").split(b";")[0]).set(b"From", b"<sip:+33140000001@x>"),
)
_add(
    "unknown_headers_and_parameters",
    lambda p: _more(
        p,
        (b"NewFangledHeader", b"newfangled value\r\n continued newfangled value"),
        (b"X-\xff", b"\xfe\xfd"),
    ),
)
_add("zero_max_forwards", lambda p: p.set(b"Max-Forwards", b"0"))
_add("two_in_one_datagram", lambda p: p.render() + _method(p, b"OPTIONS").render())
_add("required_extension", lambda p: _more(p, (b"Require", b"nothingSupportsThis, 100rel")))
_add("no_contact", lambda p: p.drop(b"Contact"))
_add("ack_out_of_the_blue", lambda p: _method(p, b"ACK"))
_add("cancel_out_of_the_blue", lambda p: _method(p, b"CANCEL"))
_add("bye_out_of_the_blue", lambda p: _method(p, b"BYE").set(b"To", b"<sip:x@y>;tag=unknown"))
_add("invite_with_to_tag", lambda p: p.set(b"To", p.get(b"To") + b";tag=unknown"))
_add("invite_with_empty_to_tag", lambda p: p.set(b"To", p.get(b"To") + b";tag="))
_add("register", lambda p: _method(p, b"REGISTER"))
_add("register_with_star", lambda p: _method(p, b"REGISTER").set(b"Contact", b"*"))
_add("subscribe", lambda p: _more(_method(p, b"SUBSCRIBE"), (b"Event", b"presence")))
_add("publish", lambda p: _method(p, b"PUBLISH"))
_add("refer", lambda p: _more(_method(p, b"REFER"), (b"Refer-To", b"<sip:x@y?Replaces=z>")))
_add("prack", lambda p: _more(_method(p, b"PRACK"), (b"RAck", b"1 1 INVITE")))
_add("notify", lambda p: _more(_method(p, b"NOTIFY"), (b"Event", b"refer")))
_add("options", lambda p: _method(p, b"OPTIONS"))
_add("replaces", lambda p: _more(p, (b"Replaces", b"a@b;to-tag=1;from-tag=2"), (b"Join", b"x")))

# Wrong.
_add(
    "separators_without_values",
    lambda p: p.set(b"Contact", b'"Joe" <sip:joe@x>;;;;').set(b"Via", p.get(b"Via") + b";;,;,,"),
)
_add("content_length_too_large", lambda p: _more(p, (b"Content-Length", b"9999")))
_add("content_length_too_small", lambda p: _more(p, (b"Content-Length", b"3")))
_add("content_length_negative", lambda p: _more(p, (b"Content-Length", b"-999")))
_add("content_length_of_letters", lambda p: _more(p, (b"Content-Length", b"many")))
_add("content_length_huge", lambda p: _more(p, (b"Content-Length", b"9" * 40)))
_add(
    "content_length_twice",
    lambda p: _more(p, (b"Content-Length", b"5"), (b"Content-Length", b"15")),
)
_add(
    "numbers_too_large",
    lambda p: _more(
        p.set(b"CSeq", b"36893488147419103232 INVITE").set(b"Max-Forwards", b"300"),
        (b"Expires", b"1" + b"0" * 60),
        (b"Timestamp", b"9" * 90),
    ),
)
_add("quote_without_end", lambda p: p.set(b"To", b'"Mr. J. User <sip:j.user@example.com>'))
_add("request_uri_in_brackets", lambda p: _uri(p, b"<sip:+33972100001@127.0.0.1>"))
_add("spaces_in_request_uri", lambda p: _uri(p, b"sip:+33972100001@127.0.0.1; lr"))
_add("spaces_in_start_line", lambda p: _start(p, b"INVITE  sip:+33972100001@127.0.0.1  SIP/2.0"))
_add("space_after_start_line", lambda p: _start(p, p.start + b"  "))
_add("headers_in_request_uri", lambda p: _uri(p, b"sip:+33972100001@127.0.0.1?Route=%3Csip:x%3E"))
_add("bad_date", lambda p: _more(p, (b"Date", b"Fri, 01 Jan 2010 16:00:00 EST")))
_add("address_without_brackets", lambda p: p.set(b"Contact", b"sip:user@example.com?Route=%3Cx%3E"))
_add("display_name_not_quoted", lambda p: p.set(b"From", b"Bell, Alexander <sip:a@b>;tag=43"))
_add("version_seven", lambda p: _start(p, p.start.replace(b"SIP/2.0", b"SIP/7.0")))
_add("method_differs_from_cseq", lambda p: p.set(b"CSeq", b"8 OPTIONS"))
_add("unknown_method_differs_from_cseq", lambda p: _start(p, p.start.replace(b"INVITE", b"NEW")))
_add(
    "branch_of_nothing_but_the_cookie",
    lambda p: p.set(b"Via", p.get(b"Via").split(b";branch")[0] + b";branch=z9hG4bK"),
)
_add("nothing_but_a_start_line", lambda p: p.start + b"\r\n\r\n")
_add("half_a_start_line", lambda p: p.start[:9])
_add("unknown_scheme", lambda p: _uri(p, b"nobodyKnowsThisScheme:totallyopaquecontent"))
_add("http_scheme", lambda p: _uri(p, b"soap.beep://192.0.2.103:3002"))
_add(
    "unknown_schemes_in_headers",
    lambda p: (
        p.set(b"To", b"<isbn:2983792873>")
        .set(b"From", b"<http://www.example.com>;tag=3")
        .set(b"Contact", b"<name:John_Smith>")
    ),
)
_add(
    "single_headers_twice",
    lambda p: _more(
        p,
        (b"Call-ID", b"other"),
        (b"CSeq", b"99 BYE"),
        (b"From", b"<sip:o@o>;tag=o"),
        (b"To", b"<sip:q@q>;tag=q"),
        (b"Max-Forwards", b"0"),
        (b"Contact", b"<sip:w@[::1]>"),
    ),
)
_add("bare_line_feeds", lambda p: p.render().replace(b"\r\n", b"\n"))
_add("bare_carriage_returns", lambda p: p.render().replace(b"\r\n", b"\r"))
_add(
    "header_hidden_behind_a_carriage_return",
    lambda p: _more(p, (b"Subject", b"x\rTo: <sip:hidden@x>;tag=h")),
)
_add("nul_in_a_header", lambda p: _more(p, (b"Subject", b"a\0b")))
_add("nul_in_the_start_line", lambda p: _uri(p, b"sip:\0@127.0.0.1"))
_add("nul_in_from", lambda p: p.set(b"From", b"<sip:a\0b@x>;tag=\0"))
_add("no_end_of_headers", lambda p: p.render().partition(b"\r\n\r\n")[0])
_add("nothing_after_a_colon", lambda p: p.set(b"From", b"").set(b"To", b""))
_add("header_without_colon", lambda p: _line(p, b"Max-Forwards: 70", b"Max-Forwards 70"))
_add("header_without_name", lambda p: _line(p, b"Max-Forwards: 70", b": 70"))
_add("body_without_type", lambda p: p.drop(b"Content-Type"))
_add("type_without_subtype", lambda p: p.set(b"Content-Type", b"application"))
_add("type_of_punctuation", lambda p: p.set(b"Content-Type", b'/;="'))
_add(
    "ports_out_of_range",
    lambda p: p.set(b"Contact", b"<sip:x@127.0.0.1:99999>").set(
        b"Via", b"SIP/2.0/UDP 127.0.0.1:0;branch=z9hG4bKp0"
    ),
)
_add(
    "broadcast_via",
    lambda p: p.set(b"Via", new_via(("255.255.255.255", 5060)), new_via(("127.0.0.1", 9))),
)
_add("vias_by_the_dozen", lambda p: p.set(b"Via", *[new_via(("127.0.0.1", 9))] * 40))
_add(
    "record_routes_by_the_dozen", lambda p: p.set(b"Record-Route", *[b"<sip:127.0.0.1:9;lr>"] * 60)
)
_add("routes_by_the_dozen", lambda p: p.set(b"Route", *[b"<sip:127.0.0.1:9;lr>, <sip:x>"] * 40))
_add("over_four_thousand_bytes", lambda p: Packet(p.start, p.fields, SDP + b"a=x\r\n" * 900))
_add("over_sixty_thousand_bytes", lambda p: Packet(p.start, p.fields, b"a=x\r\n" * 12_200))
_add(
    "diversions_by_the_dozen",
    lambda p: _more(p, *[(b"Diversion", b"<sip:x@y>;reason=unconditional;counter=9999")] * 30),
)
_add(
    "history_of_nonsense",
    lambda p: _more(p, (b"History-Info", b'<sip:a>;index=1.1.1.1.1.1..,,<>;index=;index="')),
)
_add("reason_of_nonsense", lambda p: _more(p, (b"Reason", b"Q.850;cause=99999999,;;Q.850;cause=")))
_add("privacy_of_nonsense", lambda p: _more(p, (b"Privacy", b";;id;;,user"), (b"Privacy", b"")))
_add("response_to_nobody", lambda p: _start(p, b"SIP/2.0 200 OK"))
_add("response_to_nobody_with_a_big_code", lambda p: _start(p, b"SIP/2.0 4294967301 better"))
_add("line_ends_only", lambda p: b"\r\n\r\n\r\n")
_add("one_byte", lambda p: b"\0")
_add("no_sip_at_all", lambda p: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

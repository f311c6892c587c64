//! The packet rules of a sandbox, as one batch that the kernel takes whole or not at all:
//! loopback stays loopback; questions of names go to our port of names; every other TCP connection goes to the redirect; the rest is logged and refused.

use super::{APPEND, Attributes, CREATE, Messages};
use crate::sandbox::{DNS_PORT, REDIRECT_PORT, REFUSED_GROUP};

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const NEW_RULE: u16 = SUBSYSTEM | 6;

const TABLE: &str = "postern";
/// `NFPROTO_INET`: both IP families.
const INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// The 16-byte register that all expressions here use.
const REGISTER: u32 = 1;

/// Whether refused packets are reported.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Logging {
    /// To the group [`REFUSED_GROUP`].
    On,
    /// The kernel has no log.
    Off,
}

/// The whole rule set.
pub(crate) fn rules(logging: Logging) -> Messages {
    let mut messages = Messages::default();
    messages.add_silent(BATCH_BEGIN, &batch_header());
    messages.add(NEW_TABLE, CREATE, &[INET, 0, 0, 0], |table| {
        table.text(1, TABLE);
    });
    chain(&mut messages, "redirect", "nat", -100, Policy::Accept);
    for rule in [accept_ipv4_loopback, accept_ipv6_loopback] {
        add_rule(&mut messages, "redirect", rule);
    }
    for protocol in [UDP, TCP] {
        add_rule(&mut messages, "redirect", |rule| {
            match_transport(rule, protocol);
            match_payload(rule, Header::Transport, 2, &DNS_PORT.to_be_bytes());
            redirect_to(rule, DNS_PORT);
        });
    }
    add_rule(&mut messages, "redirect", |rule| {
        match_transport(rule, TCP);
        redirect_to(rule, REDIRECT_PORT);
    });
    chain(&mut messages, "refuse", "filter", 0, Policy::Drop);
    for rule in [accept_ipv4_loopback, accept_ipv6_loopback, accept_replies] {
        add_rule(&mut messages, "refuse", rule);
    }
    add_rule(&mut messages, "refuse", |rule| {
        if logging == Logging::On {
            log(rule);
        }
        reject(rule);
    });
    messages.add_silent(BATCH_END, &batch_header());
    messages
}

/// `struct nfgenmsg` with the subsystem as resource.
fn batch_header() -> [u8; 4] {
    [0, 0, 0, 10]
}

#[derive(Clone, Copy)]
enum Policy {
    Drop = 0,
    Accept = 1,
}

fn chain(messages: &mut Messages, name: &str, kind: &str, priority: i32, policy: Policy) {
    const LOCAL_OUT: u32 = 3;
    messages.add(NEW_CHAIN, CREATE, &[INET, 0, 0, 0], |chain| {
        chain.text(1, TABLE).text(3, name);
        chain.nest(4, |hook| {
            hook.number(1, LOCAL_OUT).bytes(2, &priority.to_be_bytes());
        });
        chain.number(5, policy as u32).text(7, kind);
    });
}

fn add_rule(messages: &mut Messages, chain: &str, fill: impl FnOnce(&mut Attributes<'_>)) {
    messages.add(NEW_RULE, APPEND, &[INET, 0, 0, 0], |rule| {
        rule.text(1, TABLE).text(2, chain).nest(4, fill);
    });
}

fn expression(rule: &mut Attributes<'_>, name: &str, fill: impl FnOnce(&mut Attributes<'_>)) {
    rule.nest(1, |element| {
        element.text(1, name).nest(2, fill);
    });
}

/// By the first byte: all of 127.0.0.0/8.
fn accept_ipv4_loopback(rule: &mut Attributes<'_>) {
    match_family(rule, NFPROTO_IPV4);
    match_payload(rule, Header::Network, 16, &[127]);
    accept(rule);
}

fn accept_ipv6_loopback(rule: &mut Attributes<'_>) {
    match_family(rule, NFPROTO_IPV6);
    match_payload(rule, Header::Network, 24, &std::net::Ipv6Addr::LOCALHOST.octets());
    accept(rule);
}

/// Answers of our own listeners to a socket that was bound to some other address.
fn accept_replies(rule: &mut Attributes<'_>) {
    const DIRECTION: u32 = 1;
    const REPLY: u8 = 1;
    expression(rule, "ct", |ct| {
        ct.number(1, REGISTER).number(2, DIRECTION);
    });
    compare(rule, &[REPLY]);
    accept(rule);
}

fn match_family(rule: &mut Attributes<'_>, family: u8) {
    const NFPROTO: u32 = 15;
    load_meta(rule, NFPROTO);
    compare(rule, &[family]);
}

fn match_transport(rule: &mut Attributes<'_>, protocol: u8) {
    const L4PROTO: u32 = 16;
    load_meta(rule, L4PROTO);
    compare(rule, &[protocol]);
}

fn load_meta(rule: &mut Attributes<'_>, key: u32) {
    expression(rule, "meta", |meta| {
        meta.number(1, REGISTER).number(2, key);
    });
}

#[derive(Clone, Copy)]
enum Header {
    Network = 1,
    Transport = 2,
}

fn match_payload(rule: &mut Attributes<'_>, header: Header, offset: u32, value: &[u8]) {
    let length = u32::try_from(value.len()).expect("an address or a port");
    expression(rule, "payload", |payload| {
        payload.number(1, REGISTER).number(2, header as u32).number(3, offset).number(4, length);
    });
    compare(rule, value);
}

fn compare(rule: &mut Attributes<'_>, value: &[u8]) {
    const EQUAL: u32 = 0;
    expression(rule, "cmp", |cmp| {
        cmp.number(1, REGISTER).number(2, EQUAL).nest(3, |data| {
            data.bytes(1, value);
        });
    });
}

fn redirect_to(rule: &mut Attributes<'_>, port: u16) {
    expression(rule, "immediate", |immediate| {
        immediate.number(1, REGISTER).nest(2, |data| {
            data.bytes(1, &port.to_be_bytes());
        });
    });
    expression(rule, "redir", |redirect| {
        redirect.number(1, REGISTER);
    });
}

fn accept(rule: &mut Attributes<'_>) {
    const VERDICT_REGISTER: u32 = 0;
    const ACCEPT: u32 = 1;
    expression(rule, "immediate", |immediate| {
        immediate.number(1, VERDICT_REGISTER).nest(2, |data| {
            data.nest(2, |verdict| {
                verdict.number(1, ACCEPT);
            });
        });
    });
}

fn log(rule: &mut Attributes<'_>) {
    expression(rule, "log", |log| {
        log.bytes(1, &REFUSED_GROUP.to_be_bytes());
    });
}

/// Port unreachable, so that a client of QUIC falls back to TCP at once instead of waiting.
fn reject(rule: &mut Attributes<'_>) {
    const UNREACHABLE_OF_EITHER_FAMILY: u32 = 2;
    const PORT: u8 = 1;
    expression(rule, "reject", |reject| {
        reject.number(1, UNREACHABLE_OF_EITHER_FAMILY).bytes(2, &[PORT]);
    });
}

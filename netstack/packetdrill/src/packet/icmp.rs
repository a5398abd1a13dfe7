//! Names of ICMP and ICMPv6 messages in scripts, and their numbers (RFC 792, RFC 4443).

/// A kind of message: type and code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IcmpKind {
    pub(crate) kind: u8,
    pub(crate) code: u8,
}

/// Names of one IP version's messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IcmpNames {
    types: &'static [(&'static str, u8)],
    /// Type, name, number.
    codes: &'static [(u8, &'static str, u8)],
}

const V4: IcmpNames = IcmpNames {
    types: &[
        ("echo_reply", 0),
        ("unreachable", 3),
        ("source_quench", 4),
        ("redirect", 5),
        ("echo_request", 8),
        ("time_exceeded", 11),
        ("parameter_problem", 12),
        ("timestamp_request", 13),
        ("timestamp_reply", 14),
        ("information_request", 15),
        ("information_reply", 16),
        ("address_mask_request", 17),
        ("address_mask_reply", 18),
    ],
    codes: &[
        (3, "net_unreachable", 0),
        (3, "host_unreachable", 1),
        (3, "protocol_unreachable", 2),
        (3, "port_unreachable", 3),
        (3, "frag_needed", 4),
        (3, "source_route_failed", 5),
        (3, "net_unknown", 6),
        (3, "host_unknown", 7),
        (3, "source_host_isolated", 8),
        (3, "net_prohibited", 9),
        (3, "host_prohibited", 10),
        (3, "net_unreachable_for_tos", 11),
        (3, "host_unreachable_for_tos", 12),
        (3, "packet_filtered", 13),
        (3, "precedence_violation", 14),
        (3, "precedence_cutoff", 15),
        (11, "ttl_exceeded", 0),
        (11, "reassembly_time_exceeded", 1),
    ],
};

const V6: IcmpNames = IcmpNames {
    types: &[
        ("unreachable", 1),
        ("packet_too_big", 2),
        ("time_exceeded", 3),
        ("parameter_problem", 4),
        ("echo_request", 128),
        ("echo_reply", 129),
    ],
    codes: &[
        (1, "no_route", 0),
        (1, "net_unreachable", 0),
        (1, "admin_prohibited", 1),
        (1, "packet_filtered", 1),
        (1, "not_neighbour", 2),
        (1, "address_unreachable", 3),
        (1, "addr_unreachable", 3),
        (1, "host_unreachable", 3),
        (1, "port_unreachable", 4),
        (3, "hop_limit_exceeded", 0),
        (3, "ttl_exceeded", 0),
        (3, "reassembly_time_exceeded", 1),
        (4, "header_field", 0),
        (4, "unknown_next_header", 1),
        (4, "unknown_option", 2),
    ],
};

impl IcmpNames {
    /// The names of a version.
    pub(crate) fn of(v6: bool) -> IcmpNames {
        if v6 { V6 } else { V4 }
    }

    /// The numbers of a message that a script names. What one version calls `frag_needed` is the other's `packet_too_big`:
    /// scripts that run on both may use either.
    pub(crate) fn find(&self, kind: &str, code: Option<&str>) -> Result<IcmpKind, String> {
        let v6 = self.types.len() == V6.types.len();
        match (v6, kind, code) {
            (true, "unreachable", Some("frag_needed")) => return Ok(IcmpKind { kind: 2, code: 0 }),
            (false, "packet_too_big", None) => return Ok(IcmpKind { kind: 3, code: 4 }),
            _ => {}
        }
        let named = self.types.iter().find(|(name, _)| *name == kind).map(|(_, number)| *number);
        // `type_3`, `code_1`: by number.
        let numeric =
            |text: &str, prefix: &str| text.strip_prefix(prefix).and_then(|number| number.parse().ok());
        let Some(number) = named.or_else(|| numeric(kind, "type_")) else {
            let names: Vec<&str> = self.types.iter().map(|(name, _)| *name).collect();
            return Err(format!("'{kind}' is no type of ICMP message: expected one of {}", names.join(", ")));
        };
        let Some(code) = code else { return Ok(IcmpKind { kind: number, code: 0 }) };
        let of_type = || self.codes.iter().filter(|(kind, ..)| *kind == number);
        let named = of_type().find(|(_, name, _)| *name == code).map(|(_, _, code)| *code);
        match named.or_else(|| numeric(code, "code_")) {
            Some(code) => Ok(IcmpKind { kind: number, code }),
            None => {
                let names: Vec<&str> = of_type().map(|(_, name, _)| *name).collect();
                Err(format!("'{code}' is no code of '{kind}': expected one of {}", names.join(", ")))
            }
        }
    }

    /// What scripts call a message.
    pub(crate) fn name(&self, kind: IcmpKind) -> String {
        let Some((name, _)) = self.types.iter().find(|(_, number)| *number == kind.kind) else {
            return format!("type {} code {}", kind.kind, kind.code);
        };
        match self.codes.iter().find(|(of, _, code)| (*of, *code) == (kind.kind, kind.code)) {
            Some((_, code, _)) => format!("{name} {code}"),
            None => (*name).to_owned(),
        }
    }
}

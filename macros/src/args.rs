//! The attribute's arguments: `key = value, …`.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Error, Expr, ExprLit, Ident, Lit, LitBool, Path, Result, Token};

/// The keys of `demi::Config`.
pub(crate) const CONFIG_KEYS: &[&str] = &[
    "device",
    "address",
    "detect_duplicates",
    "address_wait_ms",
    "gateway",
    "mtu",
    "mac",
    "vlan",
    "vlan_priority",
    "dns",
    "dns_search",
    "hosts_file",
    "resolv_conf",
    "idle",
    "spin_us",
    "cores",
    "pool_slots",
    "pool_slot_bytes",
    "pool_large_slots",
    "pool_large_slot_bytes",
    "huge_pages",
    "backlog",
    "send_buffer_bytes",
    "recv_buffer_bytes",
    "congestion",
    "max_connections",
    "send_buffer_max_bytes",
    "recv_buffer_max_bytes",
    "ecn",
    "syn_cookies",
    "max_half_open",
    "max_orphans",
    "mtu_probing",
    "fast_open_key",
    "tcp_timestamps",
    "tcp_window_scaling",
    "tcp_sack",
    "tcp_dsack",
    "tcp_recovery",
    "tcp_early_retrans",
    "tcp_frto",
    "tcp_reordering",
    "tcp_max_reordering",
    "tcp_slow_start_after_idle",
    "tcp_pacing_ss_ratio",
    "tcp_pacing_ca_ratio",
    "tcp_moderate_rcvbuf",
    "tcp_rto_min_us",
    "tcp_rto_max_ms",
    "tcp_syn_retries",
    "tcp_synack_retries",
    "tcp_retries2",
    "tcp_orphan_retries",
    "tcp_fin_timeout",
    "tcp_ecn_fallback",
    "tcp_ecn_option",
    "tcp_ecn_option_beacon",
    "tcp_tw_reuse",
    "tcp_max_tw_buckets",
    "tcp_fastopen",
    "tcp_abort_on_overflow",
    "rdma_receives",
    "rdma_credits",
    "rdma_requests",
    "rdma_inline_bytes",
    "rdma_trust_peers",
    "rdma_on_demand",
    "rdma_connect_timeout_ms",
    "rdma_close_timeout_ms",
    "pcap",
    "seed",
    "report_signal",
    "drain_ms",
    "log",
];
/// The keys that are the macros' own.
const OWN_KEYS: &[&str] = &["paused", "crate"];

/// The arguments of `#[demi::main]` or `#[demi::test]`.
pub(crate) struct Args {
    /// Where `demi` is found.
    pub(crate) krate: Path,
    /// Whether time starts paused; `None`: not said.
    pub(crate) paused: Option<LitBool>,
    /// Configuration keys and their values.
    pub(crate) config: Vec<(Ident, Expr)>,
}

struct Arg {
    key: Ident,
    value: Expr,
}

impl Parse for Arg {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        // `crate` is a keyword.
        let key = input.call(Ident::parse_any)?;
        if !input.peek(Token![=]) {
            return Err(Error::new(key.span(), format!("`{key}` needs a value: write `{key} = …`")));
        }
        input.parse::<Token![=]>()?;
        Ok(Arg { key, value: input.parse()? })
    }
}

impl Parse for Args {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut args = Args { krate: syn::parse_quote!(::demi), paused: None, config: Vec::new() };
        let mut seen: Vec<Ident> = Vec::new();
        for Arg { key, value } in Punctuated::<Arg, Token![,]>::parse_terminated(input)? {
            if seen.contains(&key) {
                return Err(Error::new(key.span(), format!("`{key}` is given twice")));
            }
            seen.push(key.clone());
            match key.to_string().as_str() {
                "crate" => args.krate = path(&value)?,
                "paused" => args.paused = Some(switch(&value)?),
                name if CONFIG_KEYS.contains(&name) => {
                    check(&value)?;
                    args.config.push((key, value));
                }
                name => return Err(Error::new(key.span(), unknown(name))),
            }
        }
        Ok(args)
    }
}

impl Args {
    /// The configuration as an expression.
    pub(crate) fn config(&self) -> TokenStream {
        let krate = &self.krate;
        let calls = self.config.iter().map(|(key, value)| {
            // The value's span: a value of a type that no key takes is reported where it was written.
            let key = Ident::new(&key.to_string(), value.span().resolved_at(Span::call_site()));
            quote!(.#key(#value))
        });
        quote!(#krate::Config::new()#(#calls)*)
    }

    /// Whether the configuration key `name` is given.
    pub(crate) fn gives(&self, name: &str) -> bool {
        self.config.iter().any(|(key, _)| key == name)
    }
}

fn unknown(name: &str) -> String {
    let keys: Vec<_> = CONFIG_KEYS.iter().chain(OWN_KEYS).copied().collect();
    format!("unknown key `{name}`: the keys are {}", keys.join(", "))
}

/// Refuses literals of types that no key takes, in words better than a trait bound's.
fn check(value: &Expr) -> Result<()> {
    match value {
        Expr::Lit(ExprLit { lit: Lit::Str(_) | Lit::Int(_) | Lit::Bool(_), .. }) => Ok(()),
        Expr::Lit(other) => {
            Err(Error::new(other.span(), "write a text, a whole number, a switch or a list of them"))
        }
        Expr::Array(list) => list.elems.iter().try_for_each(check),
        _ => Ok(()),
    }
}

fn switch(value: &Expr) -> Result<LitBool> {
    match value {
        Expr::Lit(ExprLit { lit: Lit::Bool(switch), .. }) => Ok(switch.clone()),
        other => Err(Error::new(other.span(), "write `true` or `false`")),
    }
}

/// A path, or a string that holds one.
fn path(value: &Expr) -> Result<Path> {
    match value {
        Expr::Path(path) => Ok(path.path.clone()),
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => text.parse(),
        other => Err(Error::new(other.span(), "write the path of the crate, as `crate = demi`")),
    }
}

//! What the tests of this folder share.

/// Whether this is a guest with `rxe0` and `rxe1` at the ends of a cable; says `SKIP` if not.
pub(super) fn machine_has_rdma() -> bool {
    let ours =
        std::env::var("DEMI_TIER").as_deref() == Ok("rdma") && std::env::var_os("XTASK_GUEST").is_some();
    if !ours {
        println!("SKIP not in a guest with RDMA: cargo xtask test --tier rdma");
    }
    ours
}

//! Compiles the loops in C that devices are measured beside.

fn main() {
    #[cfg(feature = "c-loops")]
    cc::Build::new()
        .files(["c/packet.c", "c/xdp.c"])
        .opt_level(3)
        .warnings(true)
        .flag("-std=gnu11")
        .force_frame_pointer(false)
        .compile("demi_bench_loops");
    println!("cargo:rerun-if-changed=c");
}

//! Finds DPDK with pkg-config, compiles the shim, writes the binding, and says what to link.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest release whose names the shim knows.
const OLDEST: &str = "22.11";
/// What the shim and the device call. Drivers are loaded by the environment layer when it starts.
const LIBRARIES: [&str; 5] = ["rte_eal", "rte_ethdev", "rte_mbuf", "rte_mempool", "rte_ring"];
const SOURCES: [&str; 4] = ["eal.c", "port.c", "mbuf.c", "ring.c"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=shim");
    println!("cargo:rerun-if-env-changed=DEMI_DPDK_STATIC");
    let net_ring = env::var_os("CARGO_FEATURE_NET_RING").is_some();
    let found = pkg_config::Config::new().atleast_version(OLDEST).cargo_metadata(false).probe("libdpdk");
    let dpdk = found.map_err(|error| {
        format!(
            "the feature `dpdk` needs DPDK {OLDEST} or later with its headers, pkg-config and libclang: on Debian, \
             `apt-get install libdpdk-dev dpdk-dev pkg-config clang libclang-dev`; for one of your own, set PKG_CONFIG_PATH\n{error}"
        )
    })?;
    println!("cargo:rustc-env=DEMI_DPDK_VERSION={}", dpdk.version);
    // What pkg-config says beside paths: the instruction set the installation was built for, and the header all others expect.
    let flags = ["-include".to_owned(), "rte_config.h".to_owned()].into_iter().chain(machine());
    let flags: Vec<String> = flags.collect();
    compile(&dpdk.include_paths, &flags, net_ring);
    bind(&dpdk.include_paths, &flags, net_ring)?;
    for path in &dpdk.link_paths {
        println!("cargo:rustc-link-search=native={}", path.display());
    }
    if env::var_os("CARGO_FEATURE_STATIC").is_some() || env::var_os("DEMI_DPDK_STATIC").is_some() {
        return link_static();
    }
    for library in LIBRARIES {
        println!("cargo:rustc-link-lib=dylib={library}");
    }
    if net_ring {
        println!("cargo:rustc-link-lib=dylib=rte_net_ring");
    }
    Ok(())
}

/// The `-m…` flags of the installation: its headers use instructions of that set.
fn machine() -> Vec<String> {
    let words = pkg_config_words(&["--cflags", "libdpdk"]).unwrap_or_default();
    words.into_iter().filter(|word| word.starts_with("-m")).collect()
}

fn pkg_config_words(arguments: &[&str]) -> Result<Vec<String>, Box<dyn Error>> {
    let program = env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
    let output = Command::new(program).args(arguments).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect())
}

fn compile(includes: &[PathBuf], flags: &[String], net_ring: bool) {
    let mut build = cc::Build::new();
    for source in SOURCES.into_iter().filter(|source| net_ring || *source != "ring.c") {
        build.file(Path::new("shim").join(source));
    }
    build.includes(includes).opt_level(3).warnings(true).force_frame_pointer(false);
    // DPDK's own headers have parameters that they do not use.
    build.flag("-Wno-unused-parameter").flag("-std=gnu11");
    for flag in flags {
        build.flag(flag);
    }
    build.compile("demi_dpdk_shim");
}

fn bind(includes: &[PathBuf], flags: &[String], net_ring: bool) -> Result<(), Box<dyn Error>> {
    let mut builder = bindgen::Builder::default()
        .header("shim/shim.h")
        .clang_args(includes.iter().map(|path| format!("-I{}", path.display())))
        .clang_args(flags)
        .allowlist_function("demi_dpdk_.*")
        .allowlist_type("demi_dpdk_.*")
        .allowlist_var("DEMI_DPDK_.*")
        // All else is reached through the shim, whose types are the same in every release.
        .opaque_type("rte_.*")
        .merge_extern_blocks(true)
        .derive_default(true)
        .generate_comments(true)
        .layout_tests(false)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()));
    if net_ring {
        builder = builder.clang_arg("-DDEMI_DPDK_NET_RING");
    }
    let out = PathBuf::from(env::var("OUT_DIR")?).join("bindings.rs");
    builder.generate()?.write_to_file(out)?;
    Ok(())
}

/// Whether the linker would find a system's library.
fn is_installed(library: &str) -> bool {
    ["so", "a"].iter().any(|kind| {
        let found = Command::new("cc").arg(format!("-print-file-name=lib{library}.{kind}")).output();
        // Answers the bare name when there is none.
        found.is_ok_and(|output| output.stdout.contains(&b'/'))
    })
}

/// Every archive that pkg-config names, whole: drivers register themselves when they are loaded, and nobody calls them.
fn link_static() -> Result<(), Box<dyn Error>> {
    for word in pkg_config_words(&["--static", "--libs", "libdpdk"])? {
        if let Some(path) = word.strip_prefix("-L") {
            println!("cargo:rustc-link-search=native={path}");
        } else if let Some(archive) =
            word.strip_prefix("-l:lib").and_then(|archive| archive.strip_suffix(".a"))
        {
            println!("cargo:rustc-link-lib=static:+whole-archive,-bundle={archive}");
        } else if let Some(library) = word.strip_prefix("-l") {
            // The archives again, for whoever links them shared; and what only an archive of a system's library would need.
            if !library.starts_with("rte_") && is_installed(library) {
                println!("cargo:rustc-link-lib=dylib={library}");
            }
        }
    }
    Ok(())
}

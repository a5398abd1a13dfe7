//! The examples are programs, one a file beside this one; `cargo run --release --example NAME -- --help` tells of each.

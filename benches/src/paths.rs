//! The hot paths whose instructions are counted: each a function that runs so many operations of one path, with nothing in
//! it that time or chance could change from run to run.

use std::hint::black_box;

use demi_drivers::{Pool, PoolConfig};

/// A path: its name, and what builds it. The built path runs the operations it is asked for.
pub type Path = (&'static str, fn() -> Box<dyn FnMut(u64)>);

/// Every path, in the order they are reported.
pub const PATHS: &[Path] = &[("buf_alloc_free", buf_alloc_free), ("buf_clone_split", buf_clone_split)];

/// The path called `name`.
pub fn find(name: &str) -> Option<&'static Path> {
    PATHS.iter().find(|(known, _)| *known == name)
}

fn pool() -> Pool {
    Pool::new(&PoolConfig::small(64)).expect("memory for 64 slots")
}

/// A slot taken from its pool and given back.
fn buf_alloc_free() -> Box<dyn FnMut(u64)> {
    let pool = pool();
    Box::new(move |operations| {
        for _ in 0..operations {
            drop(black_box(pool.alloc(1514)));
        }
    })
}

/// A view cloned, split in two, and both dropped.
fn buf_clone_split() -> Box<dyn FnMut(u64)> {
    let buf = pool().copy_from_slice(&[7; 1460]).expect("a free slot");
    Box::new(move |operations| {
        for _ in 0..operations {
            let mut rest = black_box(&buf).clone();
            drop(black_box((rest.split_to(730), rest)));
        }
    })
}

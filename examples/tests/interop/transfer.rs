//! A GiB each way between us and the kernel, with and without loss; SHA-256 says whether it arrives as it was. Two cores
//! carry all cells in four minutes: five seconds each, and half a minute where our own stack loses one frame in a hundred.

use std::time::Duration;

use crate::support::running::example;
use crate::support::{Lab, files, matrix};

/// What the slowest device may need for it on a busy machine, with loss.
const LIMIT_S: u64 = 600;

fn curl_downloads_it(lab: &Lab) {
    let large = files::gibibyte();
    let _server = lab.serve("http", 8080, &format!("--folder {}", large.folder.display()));
    let url = format!("http://{}/{}", lab.case.server(8080), large.name);
    let digest = lab
        .client("sh")
        .arg("-c")
        .arg(&format!("curl -sS --fail '{url}' | sha256sum"))
        .limit_s(LIMIT_S)
        .must();
    assert!(digest.starts_with(&large.digest), "downloaded {digest} instead of {}", large.digest);
}

matrix!(download, crate::transfer::curl_downloads_it);

fn our_client_uploads_it(lab: &Lab) {
    let large = files::gibibyte();
    let listen = format!("socat -u -b 262144 -d -d {}-LISTEN:9000,reuseaddr STDOUT", lab.case.socat("TCP"));
    let mut kernel = lab.start_foreign_shell(&format!("{listen} | sha256sum")).ready_when("listening on");
    let line = format!("--to {} {}", lab.case.foreign(9000), large.path().display());
    lab.program(&example("send")).args(&line).limit_s(LIMIT_S).must();
    // The last line of `sha256sum` names its standard input.
    let digest = kernel.wait_for(" -", Duration::from_secs(60)).unwrap_or_default();
    assert!(digest.starts_with(&large.digest), "uploaded {digest} instead of {}", large.digest);
}

matrix!(upload, crate::transfer::our_client_uploads_it);

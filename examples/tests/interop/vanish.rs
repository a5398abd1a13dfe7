//! A cable that is cut in the middle: a peer that does not come back is given up in a bounded time and leaves nothing
//! behind; one that comes back in time never knows.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::running::example;
use crate::support::{Device, Lab, Running, eventually, files, matrix};

/// Seconds of silence that our side puts up with.
const PATIENCE_S: u64 = 2;
/// By when it has given up at the latest: timers back off up to twice the time, and machines are busy.
const LIMIT: Duration = Duration::from_secs(20);

fn our_server_gives_up_clients_that_vanish(lab: &Lab) {
    let mut server = lab.serve("echo", 7000, &format!("--dead-after {PATIENCE_S}"));
    let target = format!("{}:{}", lab.case.socat("TCP"), lab.case.server(7000));
    // One that has said something and waits: only keepalive finds out. One that never stops: bytes stay unacknowledged.
    let mut quiet = lab.start_foreign("socat", &format!("-d - {target}"));
    quiet.say("before");
    assert!(quiet.wait_for("before", LIMIT).is_some(), "{}", quiet.report());
    let (before, buffers) = (server.descriptors(), server.held("buffers"));
    let folder = files::eighth().folder.display();
    let line =
        format!("cat {} - | exec socat - {target} > {folder}/part-of-$$", files::gibibyte().path().display());
    let busy = lab.start_foreign_shell(&line);
    let part = Part::new(&busy);
    part.fills();
    assert_eq!(server.held("streams"), Some(2), "{}", server.report());

    lab.cut();
    for (what, held) in [("streams", Some(0)), ("closing", Some(0)), ("buffers", buffers)] {
        assert!(
            eventually(|| server.held(what).is_some_and(|count| Some(count) <= held)),
            "more than {held:?} {what}\n{}",
            server.report()
        );
    }
    let after = || server.descriptors();
    assert!(eventually(|| after() <= before), "{} descriptors are open, {before} before", after());

    // Nothing else is the matter with it.
    lab.mend();
    let again = || {
        let line = format!("-N -w 5 {} 7000", lab.case.server_ip());
        lab.client("nc").args(&line).input("again").run().stdout == b"again"
    };
    assert!(eventually(again), "it serves nobody any more\n{}", server.report());
}

matrix!(clients, crate::vanish::our_server_gives_up_clients_that_vanish, lossless);

/// Where a foreign program writes what it gets; removed when dropped.
struct Part(PathBuf);

impl Part {
    fn new(of: &Running) -> Part {
        Part(files::eighth().folder.join(format!("part-of-{}", of.pid())))
    }

    fn bytes(&self) -> u64 {
        fs::metadata(&self.0).map_or(0, |file| file.len())
    }

    /// Waits until a good part of the file is there.
    #[track_caller]
    fn fills(&self) {
        assert!(eventually(|| self.bytes() > 8 << 20), "{} bytes came at all", self.bytes());
    }

    #[track_caller]
    fn assert_is(&self, large: &files::Large) {
        let came = files::digest(&self.0);
        assert!(came == large.digest, "{} bytes came: {came} instead of {}", self.bytes(), large.digest);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A kernel's socket that puts what it is sent into a file.
fn sink(lab: &Lab) -> (Running, Part) {
    let listen = format!("socat -u -b 262144 -d -d {}-LISTEN:9000,reuseaddr STDOUT", lab.case.socat("TCP"));
    let folder = files::eighth().folder.display();
    // The shell is replaced: its process id is the program's.
    let sink = lab.start_foreign_shell(&format!("exec {listen} > {folder}/part-of-$$"));
    let part = Part::new(&sink);
    (sink.ready_when("listening on"), part)
}

fn our_client_gives_up_a_server_that_vanishes(lab: &Lab) {
    let (_sink, part) = sink(lab);
    let line = format!(
        "--dead-after {PATIENCE_S} --to {} {}",
        lab.case.foreign(9000),
        files::gibibyte().path().display()
    );
    let mut send = lab.start(&example("send"), &line);
    part.fills();
    lab.cut();
    let status = send.wait(LIMIT);
    let report = send.report();
    assert_eq!(status.and_then(|status| status.code()), Some(1), "{report}");
    assert!(report.contains("timed out"), "{report}");
}

matrix!(server, crate::vanish::our_client_gives_up_a_server_that_vanishes, lossless);

/// Keeps the cable cut until several retransmissions have been lost.
fn cut_for_a_while(lab: &Lab) {
    lab.cut();
    assert!(eventually(|| lab.lost_frames() >= 4), "{} frames were lost", lab.lost_frames());
    lab.mend();
}

fn a_download_goes_on_when_the_cable_is_mended(lab: &Lab) {
    interrupt_download(lab, || cut_for_a_while(lab));
}

matrix!(download_mended, crate::vanish::a_download_goes_on_when_the_cable_is_mended, lossless);

/// The device itself is told: its interface goes down and comes up again.
fn a_download_goes_on_when_the_link_is_up_again(lab: &Lab) {
    if lab.case.device == Device::Tap {
        lab.host().sysctl("net.ipv6.conf.demi0.keep_addr_on_down=1");
    }
    interrupt_download(lab, || {
        lab.set_link(false);
        // Longer than a few retransmissions take; there is nothing that counts them.
        std::thread::sleep(Duration::from_secs(1));
        lab.set_link(true);
    });
}

matrix!(link_down, crate::vanish::a_download_goes_on_when_the_link_is_up_again, own_stack lossless);

fn interrupt_download(lab: &Lab, interrupt: impl FnOnce()) {
    let large = files::eighth();
    let _server = lab.serve("http", 8080, &format!("--folder {}", large.folder.display()));
    // Slow enough that much of it is still to come.
    let url = format!("http://{}/{}", lab.case.server(8080), large.name);
    let line =
        format!("exec curl -sS --fail --limit-rate 32M --output {}/part-of-$$ {url}", large.folder.display());
    let mut curl = lab.start_foreign_shell(&line);
    let part = Part::new(&curl);
    part.fills();
    interrupt();
    let status = curl.wait(Duration::from_secs(120));
    assert!(status.is_some_and(|status| status.success()), "{status:?}\n{}", curl.report());
    part.assert_is(large);
}

fn an_upload_goes_on_when_the_cable_is_mended(lab: &Lab) {
    let large = files::gibibyte();
    let (mut sink, part) = sink(lab);
    let line = format!("--dead-after 60 --to {} {}", lab.case.foreign(9000), large.path().display());
    let mut send = lab.start(&example("send"), &line);
    part.fills();
    cut_for_a_while(lab);
    let status = send.wait(Duration::from_secs(120));
    assert!(status.is_some_and(|status| status.success()), "{status:?}\n{}", send.report());
    assert!(sink.wait(Duration::from_secs(60)).is_some(), "{}", sink.report());
    part.assert_is(large);
}

matrix!(upload_mended, crate::vanish::an_upload_goes_on_when_the_cable_is_mended, lossless);

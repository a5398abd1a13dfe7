//! The same story told to us and to the kernel: segments at random distances from what is expected, and calls, in every state. What
//! both answer is compared, segment by segment.
//!
//! The kernel is that of this machine, behind a TAP in a network namespace of the test's own; our stack has a wire in memory. Run by
//! the kernel tier; without root, or outside of that tier, the test says `SKIP`. A story that differs is told again, more slowly: the
//! kernel has a clock of its own, and a busy machine may let a timer of it fire in between.
//!
//! Both families of addresses. `story` is what is told, `ours` and `linux` the two who hear it, `answer` what they say and how they may differ.

mod answer;
mod family;
mod linux;
mod ours;
mod story;

use std::time::Duration;

use answer::Answer;
use family::Family;
use story::{STATES, Story};

/// Stories of each state.
const STORIES: u64 = 30;

/// Why the test cannot run here, if it cannot.
fn obstacle() -> Option<&'static str> {
    if std::env::var("DEMI_TIER").as_deref() != Ok("kernel") {
        return Some("not the kernel tier: cargo xtask test --tier kernel");
    }
    // SAFETY: always succeeds.
    if unsafe { libc::geteuid() } != 0 {
        return Some("needs root, for a network namespace");
    }
    None
}

/// Who hears a story.
trait Host {
    /// Tells it one step; answers what it sends.
    fn hear(&mut self, step: &story::Step) -> Vec<Answer>;
}

/// Tells `story` to `host`; everything it answered, step by step.
fn tell(story: &Story, host: &mut impl Host) -> Vec<Vec<Answer>> {
    let heard = |step| answer::without_known_differences(story, step, host.hear(step));
    story.steps.iter().map(heard).collect()
}

#[test]
fn the_kernel_answers_as_we_do_in_every_state() {
    both_answer_alike(Family::V4);
}

#[test]
fn the_kernel_answers_as_we_do_in_every_state_over_ipv6() {
    both_answer_alike(Family::V6);
}

fn both_answer_alike(family: Family) {
    if let Some(reason) = obstacle() {
        println!("SKIP {reason}");
        return;
    }
    let mut kernel = linux::Kernel::new(family);
    let (mut told, mut segments, mut excused) = (0, 0, 0);
    let mut different = Vec::new();
    for (state, prologue) in STATES {
        for number in 0..STORIES {
            let story = Story::new(state, prologue, number);
            let ours = tell(&story, &mut ours::Ours::new(family, &story));
            let mut theirs = Vec::new();
            let mut same = false;
            // The last ones are longer than the kernel delays an acknowledgement.
            for patience in [2, 2, 10, 60, 60, 60] {
                theirs = tell(&story, &mut kernel.host(&story, Duration::from_millis(patience)));
                same = ours == theirs;
                if same {
                    break;
                }
            }
            told += 1;
            segments += ours.iter().map(Vec::len).sum::<usize>();
            if !same {
                match answer::known_difference(&story, &ours, &theirs) {
                    Some(_) => excused += 1,
                    None => different.push(story.report(&ours, &theirs)),
                }
            }
        }
    }
    println!(
        "{told} stories, {segments} segments in answer, {excused} known differences, {} others",
        different.len()
    );
    for report in different.iter().take(200) {
        println!("{report}");
    }
    assert!(segments > told, "the stories are answered by silence: {segments} segments");
    assert!(different.is_empty(), "{} stories are answered otherwise by the kernel", different.len());
    assert!(excused * 10 < told, "{excused} of {told} stories are excused: the list is too generous");
}

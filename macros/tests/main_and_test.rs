//! What the macros accept, run.

use std::io;
use std::time::Duration;

#[demi::test]
async fn time_is_virtual() {
    let start = demi::time::Instant::now();
    demi::time::sleep(Duration::from_secs(86_400)).await;
    assert_eq!(start.elapsed(), Duration::from_secs(86_400));
}

#[demi::test(paused = false, idle = "park")]
async fn time_can_be_real() {
    let start = std::time::Instant::now();
    demi::time::sleep(Duration::from_millis(2)).await;
    assert!(start.elapsed() >= Duration::from_millis(1));
}

#[demi::test(seed = 9, crate = demi, log = "off")]
async fn results_and_early_returns_work() -> io::Result<()> {
    let text = "7";
    let number: u32 = text.parse().map_err(io::Error::other)?;
    if number == 7 {
        return Ok(());
    }
    Err(io::Error::other("not seven"))
}

#[demi::test]
#[should_panic(expected = "as it should")]
async fn a_panic_fails_the_test() {
    demi::spawn(async {}).await.unwrap();
    panic!("as it should");
}

#[demi::test(crate = "demi")]
async fn tasks_need_not_be_send() {
    let shared = std::rc::Rc::new(5);
    let task = demi::spawn({
        let shared = std::rc::Rc::clone(&shared);
        async move { *shared }
    });
    assert_eq!(task.await.unwrap(), *shared);
}

#[test]
fn a_wrong_use_is_told_in_words() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*.rs");
}

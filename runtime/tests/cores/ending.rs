//! How a program on several cores ends.

use std::io;
use std::time::Duration;

use crate::support::{again, two_cores};
use demi::Config;

#[test]
fn a_core_that_is_done_serves_the_others_until_all_are() {
    let Some(config) = two_cores("posix") else { return };
    let answers = demi::run(config, || async {
        if demi::this_core().index() == 1 {
            return 0;
        }
        demi::time::sleep(Duration::from_millis(50)).await;
        demi::core(1).spawn(|| async { 5 }).await.unwrap()
    });
    assert_eq!(answers.unwrap(), [5, 0]);
}

#[test]
fn a_panic_of_one_core_ends_them_all() {
    for culprit in [0, 1] {
        let Some(config) = two_cores("posix") else { return };
        let run = || {
            demi::run(config, move || async move {
                if demi::this_core().index() == culprit {
                    panic!("core {culprit} is done for");
                }
                std::future::pending::<()>().await;
            })
        };
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_err();
        assert_eq!(panic.downcast_ref::<String>().unwrap(), &format!("core {culprit} is done for"));
    }
}

#[test]
fn a_core_whose_destructor_panics_does_not_leave_the_others_waiting() {
    struct Bomb(usize);
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("core {} blows up while it is ended", self.0);
        }
    }
    for culprit in [0, 1] {
        let Some(config) = two_cores("posix") else { return };
        let run = || {
            demi::run(config, move || async move {
                let here = demi::this_core().index();
                if here == culprit {
                    let _bomb = Bomb(here);
                    std::future::pending::<()>().await;
                }
                // The other one's `main` is under way by then.
                demi::core(culprit).spawn(|| async {}).await.unwrap();
                panic!("core {here} is done for");
            })
        };
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_err();
        let first = format!("core {} is done for", 1 - culprit);
        assert_eq!(panic.downcast_ref::<String>(), Some(&first), "the first panic is the one that is told");
    }
}

#[test]
fn a_panic_on_any_core_ends_the_process_and_names_the_thread() {
    const PROGRAM: &str = "CORES_TEST_PANICS_ON";
    if let Ok(culprit) = std::env::var(PROGRAM) {
        let config = two_cores("posix").unwrap();
        demi::run(config, move || {
            let culprit = culprit.clone();
            async move {
                if demi::this_core().index().to_string() == culprit {
                    panic!("the disk is full");
                }
                std::future::pending::<()>().await;
            }
        })
        .unwrap();
    }
    if two_cores("posix").is_none() {
        return;
    }
    for culprit in ["0", "1"] {
        let name = "ending::a_panic_on_any_core_ends_the_process_and_names_the_thread";
        let ended = again(name).env(PROGRAM, culprit).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr) + String::from_utf8_lossy(&ended.stdout);
        assert_eq!(ended.status.code(), Some(101), "{said}");
        assert!(said.contains("the disk is full"), "{said}");
        assert!(culprit == "0" || said.contains("thread 'demi-core-1'"), "{said}");
    }
}

#[test]
fn tasks_of_other_cores_are_dropped_with_the_program() {
    let Some(config) = two_cores("posix") else { return };
    let ended = demi::run(config, || async {
        // Detached, and never done.
        drop(demi::core(1).spawn(std::future::pending::<()>));
        demi::this_core().index()
    });
    assert_eq!(ended.unwrap(), [0, 1]);
}

#[test]
fn a_device_for_one_core_and_a_core_there_is_not_are_named() {
    let Some(config) = two_cores("wire") else { return };
    let error = demi::run(config.address("10.0.0.1/24"), || async {}).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().starts_with("device wire: it has one queue"), "{error}");

    let error = demi::run(Config::new().device("posix").cores("0,1000"), || async {}).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert!(error.to_string().starts_with("cores = 1000: "), "{error}");
}

#[test]
fn a_runtime_is_one_core() {
    let Some(config) = two_cores("posix") else { return };
    let error = demi::Runtime::new(config).unwrap_err();
    assert!(error.to_string().ends_with("a Runtime is one core: use #[demi::main] or demi::run"), "{error}");
}

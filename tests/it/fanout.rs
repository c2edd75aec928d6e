//! Several backends at once.

use std::sync::Arc;

use hyper::Response;
use tokio::sync::{Barrier, Notify};

use crate::harness::Setup;
use crate::languages;
use crate::origin::{Origin, text};

languages!(
    fn three_are_asked_before_any_has_answered(language) {
        // No origin answers before all three are asked.
        let all = Arc::new(Barrier::new(3));
        let origin = |name: &'static str| {
            let all = all.clone();
            Origin::raw(move |request| {
                let all = all.clone();
                async move {
                    all.wait().await;
                    Response::new(text(format!("{name}:{}", request.uri().path())))
                }
            })
        };
        let (one, two, three) = (origin("1"), origin("2"), origin("3"));
        let sidelight = Setup::behaviours(language).backend("one", one.url()).backend("two", two.url()).backend("three", three.url()).start();
        let answer = sidelight.get("/fanout");
        assert_eq!((answer.status, answer.text().as_str()), (200, "1:/a,2:/b,3:/c"));
    }
);

languages!(
    fn the_first_answer_wins(language) {
        let never = Arc::new(Notify::new());
        let slow = || {
            let never = never.clone();
            Origin::raw(move |_| {
                let never = never.clone();
                async move {
                    never.notified().await;
                    Response::new(text("slow"))
                }
            })
        };
        let (one, two, three) = (slow(), Origin::fixed("quick"), slow());
        let sidelight = Setup::behaviours(language).backend("one", one.url()).backend("two", two.url()).backend("three", three.url()).start();
        let answer = sidelight.get("/fanout-first");
        assert_eq!((answer.status, answer.text().as_str()), (200, "quick"));
    }
);

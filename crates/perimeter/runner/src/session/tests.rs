use std::sync::atomic::Ordering;

use super::*;
use crate::stand_in::server;

#[tokio::test]
async fn a_history_whose_pages_do_not_end_is_given_up() {
    let (remote, asked) = server(|_| ("200 OK", br#"{"data":[],"next_page":"again"}"#.to_vec()));
    let (key, (inputs, _taken)) = (Bearer::new("key".into()), waiting());
    let subject = Subject { remote: &remote, key: &key, session: "sesn_1" };
    let reading = tokio::time::timeout(Duration::from_secs(20), history(subject, &inputs, 20));
    assert!(reading.await.expect("it ends").unwrap_err().is_garbled());
    assert_eq!(asked.load(Ordering::SeqCst), 20);
    assert_eq!(PAGES, 10_000, "of a thousand events each");
}

#[tokio::test]
async fn so_much_waits_for_the_worker_of_a_session_and_the_reader_of_its_history_waits_with_more() {
    assert_eq!(INPUTS, 256);
    let page = serde_json::json!({"data": vec![serde_json::json!({"id": "sevt_1", "type": "user.message"}); 300]});
    let (remote, _asked) = server(move |_| ("200 OK", page.to_string().into_bytes()));
    let (key, (inputs, mut taken)) = (Bearer::new("key".into()), waiting());
    let subject = Subject { remote: &remote, key: &key, session: "sesn_1" };
    let mut reading = std::pin::pin!(history(subject, &inputs, 20));
    // Room may be taken by what is not there yet, so what is there is counted.
    let until_it_is_full = async {
        while taken.len() < 256 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        read = &mut reading => panic!("there is room for all of it: {read:?}"),
        () = until_it_is_full => {}
    }
    assert_eq!((taken.len(), inputs.capacity()), (256, 0));
    let drained = async {
        for _ in 0..300 {
            assert!(matches!(taken.recv().await, Some(Input::History(_))));
        }
    };
    assert!(tokio::join!(reading, drained).0.is_ok());
}

#[tokio::test]
async fn a_result_that_the_server_refuses_for_good_is_kept_no_longer_and_one_whose_asker_is_refused_is() {
    let statuses = [
        ("400 Bad Request", false),
        ("413 Content Too Large", false),
        ("401 Unauthorized", true),
        // Of somebody between, perhaps, while the server was not there.
        ("404 Not Found", true),
        ("405 Method Not Allowed", true),
    ];
    for (status, is_kept) in statuses {
        let (remote, _asked) = server(move |_| (status, br#"{"error":{"message":"no"}}"#.to_vec()));
        let key = Bearer::new("key".into());
        let subject = Subject { remote: &remote, key: &key, session: "sesn_1" };
        let directory = tempfile::tempdir().expect("a directory");
        let mut journal = Journal::open(&directory.path().join("journal")).expect("opened");
        let outcome = Outcome::failed("a long answer".to_owned());
        journal.started("sevt_1", "read").await.expect("noted");
        journal.done("sevt_1", &outcome).expect("noted");
        let (_told, lease) =
            watch::channel(LeaseView { send_window: Duration::from_secs(20), confirmed: true, end: None });
        let delivered = deliver(subject, "sevt_1", &outcome, &lease).await;
        assert!(matches!(settle("sevt_1", delivered, &mut journal), Input::Settled { .. }), "{status}");
        let kept = matches!(journal.standing("sevt_1"), Some(crate::journal::Standing::Done(_)));
        assert_eq!(kept, is_kept, "{status}");
    }
}

#[test]
fn a_result_says_of_few_things_that_they_are_not_there_and_how_many_more_there_are() {
    let lines = |count: usize| (0..count).map(|at| at.to_string()).collect::<Vec<_>>();
    assert_eq!(few(lines(20)), lines(20));
    let said = few(lines(2_000));
    assert_eq!((said.len(), &said[..20]), (21, &lines(20)[..]));
    assert!(said[20].contains("1980 more"), "{}", said[20]);
}

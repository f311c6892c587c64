//! How soon and how often tokens are renewed.

use super::*;

fn within(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp::now() + jiff::SignedDuration::from_secs(seconds))
}

impl Login {
    /// A turn in which the gateway is asked and says this, or is not asked.
    async fn turn(&mut self, id: &SessionId, reply: Option<Reply>) {
        let mut watch = self.stage.watch(id, &[]).await;
        self.stage.say(id, "hello").await;
        if let Some(reply) = reply {
            self.asked().await.answers(reply);
        }
        self.stage.script.call().await.says("hi").await;
        watch.until("session.status_idle").await;
        assert!(self.asked.try_recv().is_err(), "nobody is asked beside");
    }

    fn pass(&self, seconds: u64) {
        self.stage.engine.shared.renewing.pass(Duration::from_secs(seconds));
    }
}

#[tokio::test]
async fn a_token_is_renewed_half_a_minute_before_it_expires_and_used_as_it_is_where_that_fails() {
    let mut login = Login::new(within(50)).await;
    let id = login.session().await;
    login.turn(&id, None).await;
    assert_eq!(login.sent(), ["old"]);
    let mut login = Login::new(within(29)).await;
    let id = login.session().await;
    login.turn(&id, Some(refused("endpoint_down"))).await;
    assert_eq!(login.sent(), ["old"], "it is good for a moment yet");
}

#[tokio::test]
async fn an_endpoint_that_failed_is_left_alone_for_five_seconds() {
    let mut login = Login::new(expired()).await;
    let id = login.session().await;
    login.turn(&id, Some(refused("endpoint_down"))).await;
    login.pass(2);
    login.turn(&id, None).await;
    assert!(login.errors(&id).await[1].1.starts_with("endpoint_down"), "the reason is told again");
    login.pass(3);
    login.turn(&id, Some(renewed("new", None, None))).await;
    assert_eq!(login.sent(), ["new"]);
}

#[tokio::test]
async fn a_token_that_was_renewed_and_is_refused_is_not_renewed_for_a_minute() {
    let mut login = Login::new(expired()).await;
    let id = login.session().await;
    login.turn(&id, Some(renewed("new", None, None))).await;
    for (passed, is_asked) in [(50, false), (10, true)] {
        login.pass(passed);
        make(&login.stage, &id, &[SEARCH]).await;
        login.fake.call().await.answers(Err(failure("upstream_unauthorized", false)));
        if is_asked {
            login.asked().await.answers(renewed("newer", None, None));
        }
        login.stage.script.call().await.says("bye").await;
        assert!(login.asked.try_recv().is_err());
    }
}

#[tokio::test]
async fn an_endpoint_that_gives_expired_tokens_is_asked_three_times() {
    let mut login = Login::new(expired()).await;
    let id = login.session().await;
    login.stage.say(&id, "hello").await;
    for number in 0..3 {
        login.asked().await.answers(renewed(&format!("new {number}"), None, expired()));
    }
    login.stage.script.call().await.says("hi").await;
    assert!(login.asked.try_recv().is_err() && login.sent().is_empty());
    assert!(login.errors(&id).await[0].1.starts_with("token_expired_at_once"));
}

#[tokio::test]
async fn a_gateway_that_does_not_answer_is_waited_for_three_quarters_of_a_minute() {
    let mut login = Login::new(None).await;
    let (engine, workspace) = (login.stage.engine.clone(), login.stage.workspace.clone());
    let (vault, credential) = (login.vault.clone(), login.credential.clone());
    let validating = tokio::spawn(async move { engine.validate_credential(&workspace, &vault, &credential).await });
    let _unanswered = login.asked().await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(35)).await;
    tokio::task::yield_now().await;
    assert!(!validating.is_finished(), "it is given up too soon");
    tokio::time::advance(Duration::from_secs(10)).await;
    tokio::time::resume();
    let validated = tokio::time::timeout(PATIENCE, validating).await.expect("it is given up in time");
    let (validation, reason) = validated.unwrap().unwrap();
    assert_eq!((validation.status, reason.as_deref()), (Verdict::Unknown, Some("perimeter_late")));
}

#[tokio::test]
async fn a_renewal_is_waited_for_no_longer_than_connecting_and_asked_for_again_at_the_next_attempt() {
    let mut login = Login::new(expired()).await;
    let id = login.session().await;
    let mut watch = login.stage.watch(&id, &[]).await;
    login.stage.say(&id, "hello").await;
    let unanswered = login.asked().await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(20)).await;
    tokio::time::resume();
    login.stage.script.call().await.says("without it").await;
    watch.until("session.status_idle").await;
    assert_eq!(login.sent(), [""; 0]);
    drop(unanswered);
    login.turn(&id, Some(renewed("new", None, None))).await;
    assert_eq!(login.sent(), ["new"]);
}

#[test]
fn the_last_renewal_is_remembered_of_so_many_credentials() {
    let renewing = crate::oauth::Renewing::default();
    for _ in 0..5000 {
        assert!(renewing.remembers(&CredentialId::generate()) <= 4096);
    }
}

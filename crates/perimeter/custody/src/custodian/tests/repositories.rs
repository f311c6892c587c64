//! Tokens of repositories: opened for their own session and URL where the zone takes them, and what becomes of them while a session runs.

use postern_secret::seal::{Binding, Places, Recipient, Run, SealedCredential, SealedVariable, seal, session_of_run};

use super::*;
use crate::message::{Withheld, WithheldCode};

const TOKEN: &str = "ghp-first-3b1f9d7c5a2e";
const ROTATED: &str = "ghp-second-90ac4e17d6b8-longer";
const URL: &str = "https://git.example/team/ledger";
const NAME: &str = "repository:sesrsc_1";

fn with_repositories() -> Fixture {
    let added = "[[zone.ledger.egress]]\nhost = \"git.example\"\nrepositories = true\n\n[[zone.ledger.egress]]\nhost = \"plain.example\"\n\n";
    fixture_of(&CONFIGURATION.replacen("[[zone.ledger.mcp]]", &format!("{added}[[zone.ledger.mcp]]"), 1))
}

fn binding(session: &str, url: &str) -> Binding {
    let host = url.trim_start_matches("https://").split('/').next().unwrap();
    Binding::of_repository("wrkspc_default", session, "sesrsc_1", host, url)
}

fn sealed(fixture: &Fixture, binding: Binding, value: &str) -> SealedVariable {
    let to = [Recipient { perimeter_id: "pmtr_1".to_owned(), public_key: fixture.public_key.clone() }];
    let sealed = seal(&Secret::new(value.as_bytes().to_vec()), &binding, &to).unwrap();
    // What stands beside the seal is the server's word, and says more than the seal.
    let (hosts, places) = (vec!["*".to_owned()], Places { body: true, header: true });
    SealedVariable { credential: SealedCredential { binding, sealed }, hosts, places, run: None }
}

async fn open(fixture: &Fixture, session: &str, tokens: Vec<SealedVariable>) -> Opened {
    let open = OpenSession { variables: tokens, ..fixture.ask(session) };
    fixture.custodian.open(CallerKind::Worker, open).await.unwrap()
}

async fn refresh(fixture: &Fixture, tokens: Vec<SealedVariable>) -> Vec<Withheld> {
    fixture.custodian.refresh(CallerKind::Worker, "sesn_1", tokens).await.unwrap()
}

#[tokio::test]
async fn a_token_has_a_placeholder_no_variable_and_the_url_that_it_was_sealed_for() {
    let fixture = with_repositories();
    let opened = open(&fixture, "sesn_1", vec![sealed(&fixture, binding("sesn_1", URL), TOKEN)]).await;
    assert_eq!(opened.withheld, []);
    let issued = opened.issued.iter().find(|issued| issued.credential == NAME).unwrap();
    assert_eq!((&issued.env, issued.placeholder.as_str().len()), (&None, TOKEN.len()));
    assert_eq!(issued.repository.as_ref().unwrap().url().to_string(), URL);
    let grant = fixture.asked("sesn_1", NAME, Purpose::Inject).await.unwrap();
    assert_eq!(text(&grant.secret), TOKEN);
    let vault = grant.vault.unwrap();
    assert_eq!(vault.repository.unwrap().url().to_string(), URL);
    assert_eq!(
        (vault.reach.hosts, vault.reach.header, vault.reach.body),
        (vec!["git.example".to_owned()], true, false)
    );
    let used = fixture.recorder.records().pop().unwrap();
    assert_eq!((used.kind, used.credential.as_deref()), (Kind::CredentialUse, Some(NAME)));
    assert_eq!(used.outcome.as_deref(), Some("the token of resource sesrsc_1"));
}

#[tokio::test]
async fn what_is_not_given_is_said_each_with_its_reason_and_the_next_step() {
    let fixture = with_repositories();
    let edited = |url: &str| {
        let mut edited = sealed(&fixture, binding("sesn_1", "https://git.example/team/other"), TOKEN);
        edited.credential.binding.mcp_url = Some(url.to_owned());
        edited
    };
    let moved = {
        let mut moved = sealed(&fixture, binding("sesn_2", URL), TOKEN);
        moved.credential.binding.vault = "sesn_1".to_owned();
        moved
    };
    let of = |session: &str, url: &str| sealed(&fixture, binding(session, url), TOKEN);
    use WithheldCode::{NotNamed, Unusable};
    for (what, token, code, step) in [
        ("another session's", of("sesn_2", URL), Unusable, "another session"),
        ("another session's, moved", moved, Unusable, "was changed or moved"),
        ("another repository's, edited", edited(URL), Unusable, "was changed or moved"),
        ("of no URL", edited("/srv/git/x"), Unusable, "no URL"),
        ("in the clear", of("sesn_1", "http://git.example/x"), NotNamed, "scheme http, port 80"),
        ("a host that takes none", of("sesn_1", "https://plain.example/x"), NotNamed, "repositories = true"),
        ("a host that no rule names", of("sesn_1", "https://evil.example/x"), NotNamed, "repositories = true"),
        ("another port", of("sesn_1", "https://git.example:8443/x"), NotNamed, "port 8443"),
        ("a weak one", sealed(&fixture, binding("sesn_1", URL), "aaaaaaaaaaaaaaaaaaaa"), Unusable, "too weak"),
    ] {
        let opened = open(&fixture, "sesn_1", vec![token]).await;
        assert!(opened.issued.iter().all(|issued| issued.credential != NAME), "{what}");
        let [withheld] = &opened.withheld[..] else { panic!("{what}: {:?}", opened.withheld) };
        assert_eq!(withheld.code, code, "{what}: {}", withheld.message);
        assert!(
            withheld.message.contains(step) && withheld.message.contains("Next step"),
            "{what}: {}",
            withheld.message
        );
        let refusal = fixture.asked("sesn_1", NAME, Purpose::Inject).await.unwrap_err();
        assert_eq!(refusal.reason, RefusalReason::SourceMissing, "{what}");
        fixture.custodian.close(CallerKind::Worker, "sesn_1").await.unwrap();
    }
}

#[tokio::test]
async fn a_token_of_one_session_is_granted_to_no_other() {
    let fixture = with_repositories();
    open(&fixture, "sesn_1", vec![sealed(&fixture, binding("sesn_1", URL), TOKEN)]).await;
    open(&fixture, "sesn_2", vec![sealed(&fixture, binding("sesn_1", URL), TOKEN)]).await;
    assert!(fixture.asked("sesn_1", NAME, Purpose::Inject).await.is_ok());
    assert!(fixture.asked("sesn_2", NAME, Purpose::Inject).await.is_err());
}

#[tokio::test]
async fn a_rotated_token_is_used_from_the_next_use_on_and_one_taken_away_no_more() {
    let fixture = with_repositories();
    let token = |value: &str| vec![sealed(&fixture, binding("sesn_1", URL), value)];
    open(&fixture, "sesn_1", token(TOKEN)).await;
    assert_eq!(text(&fixture.asked("sesn_1", NAME, Purpose::Inject).await.unwrap().secret), TOKEN);
    assert_eq!(refresh(&fixture, token(ROTATED)).await, []);
    assert_eq!(text(&fixture.asked("sesn_1", NAME, Purpose::Inject).await.unwrap().secret), ROTATED);
    assert_eq!(refresh(&fixture, Vec::new()).await, []);
    let refusal = fixture.asked("sesn_1", NAME, Purpose::Inject).await.unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::SourceMissing);
    assert!(refusal.next_step.contains("send one to its resource"), "{}", refusal.next_step);
}

fn of_deployment(deployment: &str, url: &str) -> Binding {
    Binding::of_deployment("wrkspc_default", deployment, "deplrsc_1", "git.example", url)
}

fn run(id: &str) -> Option<Run> {
    Some(Run { id: id.to_owned(), resource: "sesrsc_1".to_owned() })
}

#[tokio::test]
async fn a_deployment_s_token_is_opened_for_the_session_of_each_of_its_runs_as_that_session_calls_it() {
    let fixture = with_repositories();
    for id in ["drun_1", "drun_2"] {
        let session = session_of_run("depl_1", id);
        let token = SealedVariable { run: run(id), ..sealed(&fixture, of_deployment("depl_1", URL), TOKEN) };
        let opened = open(&fixture, &session, vec![token]).await;
        assert_eq!(opened.withheld, []);
        let grant = fixture.asked(&session, NAME, Purpose::Inject).await.unwrap();
        assert_eq!(text(&grant.secret), TOKEN);
        assert_eq!(grant.vault.unwrap().repository.unwrap().url().to_string(), URL);
        let used = fixture.recorder.records().pop().unwrap();
        assert_eq!(used.credential.as_deref(), Some(NAME));
        assert_eq!(used.outcome.as_deref(), Some("the token of deployment resource deplrsc_1"));
    }
}

#[tokio::test]
async fn a_deployment_s_token_is_opened_for_no_other_session_whatever_is_said_beside_it() {
    let fixture = with_repositories();
    let ours = session_of_run("depl_1", "drun_1");
    let token = |run| SealedVariable { run, ..sealed(&fixture, of_deployment("depl_1", URL), TOKEN) };
    let edited = |change: fn(&mut Binding)| {
        let mut token = token(run("drun_1"));
        change(&mut token.credential.binding);
        token
    };
    // Sealed for a session, and said to be a deployment's: whoever chooses the run could choose a session for it.
    let of_session = |session: &str| sealed(&fixture, binding(session, URL), TOKEN);
    let made_up = session_of_run("sesn_1", "drun_1");
    let of_another_kind = {
        let mut token = SealedVariable { run: run("drun_1"), ..of_session("sesn_1") };
        token.credential.binding.kind = Binding::DEPLOYMENT_REPOSITORY.to_owned();
        token
    };
    let of_the_session_s_kind = {
        let mut token = token(None);
        token.credential.binding.kind = Binding::REPOSITORY.to_owned();
        token.credential.binding.vault.clone_from(&ours);
        token
    };
    let in_no_words = SealedVariable {
        run: Some(Run { resource: "sesrsc_a\nb".to_owned(), ..run("drun_1").unwrap() }),
        ..token(None)
    };
    for (what, session, token, said) in [
        ("a session that no run began", "sesn_1", token(run("drun_1")), "another session"),
        (
            "the session of another run",
            session_of_run("depl_1", "drun_2").as_str(),
            token(run("drun_1")),
            "another session",
        ),
        ("without a run", ours.as_str(), token(None), "another session"),
        ("another deployment's", session_of_run("depl_2", "drun_1").as_str(), token(run("drun_1")), "another session"),
        ("a resource that is no id", ours.as_str(), in_no_words, "another session"),
        (
            "moved to another deployment",
            session_of_run("depl_2", "drun_1").as_str(),
            edited(|binding| binding.vault = "depl_2".to_owned()),
            "was changed or moved",
        ),
        (
            "moved to another repository",
            ours.as_str(),
            edited(|binding| binding.mcp_url = Some("https://git.example/team/payroll".to_owned())),
            "was changed or moved",
        ),
        ("a session's own, as a deployment's", made_up.as_str(), of_another_kind, "was changed or moved"),
        (
            "a session's own, with a run",
            made_up.as_str(),
            SealedVariable { run: run("drun_1"), ..of_session("sesn_1") },
            "another session",
        ),
        ("a deployment's, as a session's own", ours.as_str(), of_the_session_s_kind, "was changed or moved"),
    ] {
        let opened = open(&fixture, session, vec![token]).await;
        assert!(opened.issued.iter().all(|issued| issued.repository.is_none()), "{what}");
        let [withheld] = &opened.withheld[..] else { panic!("{what}: {:?}", opened.withheld) };
        assert_eq!(withheld.code, WithheldCode::Unusable, "{what}");
        assert!(
            withheld.message.contains(said) && withheld.message.contains("Next step"),
            "{what}: {}",
            withheld.message
        );
        assert!(fixture.asked(session, NAME, Purpose::Inject).await.is_err(), "{what}");
        fixture.custodian.close(CallerKind::Worker, session).await.unwrap();
    }
}

#[tokio::test]
async fn of_a_token_that_does_not_open_is_said_which_of_the_session_s_resources_it_is_for() {
    let fixture = with_repositories();
    let session = session_of_run("depl_1", "drun_1");
    let mut token = SealedVariable { run: run("drun_1"), ..sealed(&fixture, of_deployment("depl_1", URL), TOKEN) };
    token.credential.sealed.wraps.clear();
    let opened = open(&fixture, &session, vec![token]).await;
    assert_eq!(opened.withheld[0].credential, "sesrsc_1");
}

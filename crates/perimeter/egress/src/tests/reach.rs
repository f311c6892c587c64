//! A vault's credential goes as far as zone and vault both say: what the vault does not allow is refused before custody is asked for it.

use postern_custody::VaultGrant;
use postern_policy::{Reach, Reason};

use super::stand::{Stand, Way, get};

async fn stand(hosts: &[&str], header: bool) -> Stand {
    let stand = Stand::start().await;
    let reach = Reach { hosts: hosts.iter().map(|host| (*host).to_owned()).collect(), header, body: true };
    let vault = VaultGrant { credential: "vcrd_1".to_owned(), reach };
    stand.custody.vault.lock().unwrap().insert("key".to_owned(), vault);
    stand
}

async fn talk(stand: &Stand, headers: &[(&str, &str)]) -> (u16, Option<String>) {
    let seen =
        stand.send(Way::Redirect, "https", "api.test", 443, &get("https", "api.test", 443, "/v1/x", headers)).await;
    (seen.status, seen.reason())
}

#[tokio::test]
async fn a_vault_credential_goes_only_where_its_vault_lets_it_too() {
    let wrong_host = Some(Reason::PlaceholderWrongHost.code().to_owned());
    let wrong_place = Some(Reason::PlaceholderWrongLocation.code().to_owned());
    for (hosts, header, expected) in [
        (&["*"][..], true, (200, None)),
        (&["*.test"], true, (403, wrong_host.clone())),
        (&["other.test", "api.test"], true, (200, None)),
        (&["other.test"], true, (403, wrong_host.clone())),
        (&[], true, (403, wrong_host)),
        (&["api.test"], false, (403, wrong_place)),
    ] {
        let stand = stand(hosts, header).await;
        let bearer = format!("Bearer {}", stand.placeholder);
        assert_eq!(talk(&stand, &[("authorization", &bearer)]).await, expected, "{hosts:?} {header}");
        let sent = usize::from(expected.0 == 200);
        assert_eq!(stand.upstream.received().len(), sent, "{hosts:?}: what is refused goes nowhere");
        let asked = stand.custody.granted.lock().unwrap().len();
        assert_eq!(talk(&stand, &[("authorization", &bearer)]).await, expected, "{hosts:?} {header} again");
        let again = stand.custody.granted.lock().unwrap().len();
        assert_eq!(again - asked, sent, "{hosts:?}: what is refused anyway is not asked for");
        assert_eq!(talk(&stand, &[]).await.0, 200, "without the placeholder the zone decides alone");
    }
}

#[tokio::test]
async fn what_a_vault_narrows_while_a_session_runs_counts_from_the_next_grant_on() {
    let stand = stand(&["api.test"], true).await;
    let bearer = format!("Bearer {}", stand.placeholder);
    assert_eq!(talk(&stand, &[("authorization", &bearer)]).await.0, 200);
    stand.custody.vault.lock().unwrap().get_mut("key").unwrap().reach.hosts = vec!["other.test".to_owned()];
    let refused = talk(&stand, &[("authorization", &bearer)]).await;
    assert_eq!(refused, (403, Some(Reason::PlaceholderWrongHost.code().to_owned())));
    assert_eq!(stand.upstream.received().len(), 1);
}

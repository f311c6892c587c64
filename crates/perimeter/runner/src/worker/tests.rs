use std::collections::BTreeMap;

use postern_policy::document::DocumentText;

use super::*;

fn reload(bytes: usize) -> Order {
    let document = DocumentText { file: String::new(), text: "x".repeat(bytes), attachments: BTreeMap::new() };
    Order::Reload { document, environments: BTreeMap::new(), variables: BTreeMap::new() }
}

#[tokio::test]
async fn a_changed_configuration_is_read_up_to_a_bound_and_one_beyond_it_is_known_beforehand() {
    let around = serde_json::to_vec(&reload(0)).unwrap().len();
    for (bytes, fits) in [(1 << 20, true), ((1 << 20) + 1, false)] {
        let order = reload(bytes - around);
        assert_eq!(order.fits(), fits, "{bytes}");
        let (mut supervisor, theirs) = Channel::pair().unwrap();
        let mut theirs = Some(Channel::new(theirs).unwrap());
        let sending = async {
            supervisor.send(&order, &[]).await.unwrap();
            std::future::pending::<()>().await;
        };
        let taken = tokio::select! {
            taken = next_order(&mut theirs) => taken,
            () = sending => unreachable!("it does not end"),
        };
        assert_eq!(taken.is_some(), fits, "{bytes}");
    }
}

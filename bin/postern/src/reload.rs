//! Has a running worker take up a changed configuration, wherever it runs. Why it did not is logged.

use std::collections::BTreeMap;
use std::time::Duration;

use postern_exec::asynchronous::Channel;
use postern_runner::{Order, Report};

use crate::config::Configuration;
use crate::roles::variables;

/// What a running worker is told, if it can be. To be asked before anybody else is told the same.
pub(crate) fn order(configuration: &Configuration, environments: &BTreeMap<String, String>) -> Option<Order> {
    let variables = match variables(configuration, environments) {
        Ok(variables) => variables,
        Err(failure) => {
            tracing::error!(%failure, "the worker keeps the former configuration");
            return None;
        }
    };
    let order = Order::Reload {
        document: configuration.document.text().clone(),
        environments: environments.clone(),
        variables,
    };
    if !order.fits() {
        tracing::error!(
            "the changed configuration is too long for a running worker, with the files that it names; \
             the former stays in force until it is started again"
        );
        return None;
    }
    Some(order)
}

/// Asks the worker at the other end, and waits for its answer. Returns whether it did.
pub(crate) async fn worker(channel: &mut Channel, order: &Order) -> bool {
    if channel.send(order, &[]).await.is_err() {
        tracing::error!("the worker is gone; the former configuration stays in force");
        return false;
    }
    match tokio::time::timeout(PATIENCE, answer(channel)).await {
        Ok(Some(problems)) if problems.is_empty() => {
            tracing::info!("the worker took up its zones again");
            true
        }
        Ok(Some(problems)) => {
            tracing::error!(?problems, "the worker keeps the former configuration");
            false
        }
        Ok(None) | Err(_) => {
            tracing::error!("the worker did not answer; which configuration it goes by is in its log");
            false
        }
    }
}

async fn answer(channel: &mut Channel) -> Option<Vec<String>> {
    loop {
        match channel.receive::<Report>(REPORT_BYTES).await {
            Ok(Some((Report::Reloaded { problems }, _))) => return Some(problems),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(20);
const REPORT_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_no_worker_reads_is_no_order() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("postern.toml");
        for (length, is_read) in [(1 << 10, true), (1 << 20, false)] {
            std::fs::write(&file, format!("config = 1\n# {}\n", "x".repeat(length))).unwrap();
            let configuration = crate::config::read_file(&file).unwrap();
            assert_eq!(order(&configuration, &BTreeMap::new()).is_some(), is_read, "{length}");
        }
    }
}

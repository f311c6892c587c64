//! What the starter says and signals say, each done as it comes, and what the starter is told. One that reads nothing holds up no order: of the connector's
//! states the latest alone waits to be said.

use std::process::ExitCode;

use postern_exec::asynchronous::{Channel, Receiver, Sender};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use crate::config::{Order, Report};

/// Has each order obeyed, until the starter is gone. Without a starter signals alone are orders.
pub(crate) async fn take(
    starter: Option<Channel>,
    connected: watch::Receiver<bool>,
    obey: impl AsyncFn(Order) -> Option<Report>,
) -> ExitCode {
    let (sender, receiver) = starter.map(Channel::split).unzip();
    let (answers, answered) = mpsc::channel(ANSWERS);
    tokio::select! {
        code = listen(receiver, answers, obey) => code,
        () = speak(sender, connected, answered) => ExitCode::FAILURE,
    }
}

async fn listen(
    mut starter: Option<Receiver>,
    answers: mpsc::Sender<Report>,
    obey: impl AsyncFn(Order) -> Option<Report>,
) -> ExitCode {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be received");
        return ExitCode::FAILURE;
    };
    loop {
        let order = tokio::select! {
            _ = terminate.recv() => Some(Order::Drain),
            _ = interrupt.recv() => Some(Order::Drain),
            order = next_order(&mut starter) => order,
        };
        let Some(order) = order else { return ExitCode::FAILURE };
        if let Some(answer) = obey(order).await
            && answers.try_send(answer).is_err()
        {
            tracing::warn!("the starter does not hear the gateway");
        }
    }
}

/// The starter's next order; `None` when it is gone. Without a starter there is never one.
async fn next_order(starter: &mut Option<Receiver>) -> Option<Order> {
    match starter {
        Some(starter) => starter.receive::<Order>(ORDER_LIMIT).await.ok().flatten().map(|(order, _)| order),
        None => std::future::pending().await,
    }
}

/// Says the answers, and the state of the connector as it is when it can be said. Does not return.
async fn speak(starter: Option<Sender>, mut connected: watch::Receiver<bool>, mut answers: mpsc::Receiver<Report>) {
    let Some(mut starter) = starter else { return std::future::pending().await };
    loop {
        let report = tokio::select! {
            biased;
            Some(answer) = answers.recv() => answer,
            Ok(()) = connected.changed() => Report::Connected { connected: *connected.borrow_and_update() },
            else => break,
        };
        if let Err(error) = starter.send(&report, &[]).await {
            tracing::warn!(%error, "the starter does not hear the gateway");
            break;
        }
    }
    // Whether it is gone is heard where orders are.
    std::future::pending().await
}

const ORDER_LIMIT: usize = 16 << 20;
/// Answers that wait for a starter that does not read; it is given up to tell it more.
const ANSWERS: usize = 16;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_starter_that_reads_nothing_is_obeyed_and_told_when_it_reads() {
        let (ours, theirs) = Channel::pair().unwrap();
        let mut starter = Channel::new(theirs).unwrap();
        let (state, connected) = watch::channel(false);
        let (obeyed, mut heard) = mpsc::unbounded_channel();
        let obey = async |order| {
            obeyed.send(matches!(order, Order::Drain)).unwrap();
            Some(Report::Reloaded { problems: Vec::new() })
        };
        let unread = async {
            // More than any socket takes.
            for change in 0..20_000 {
                state.send_replace(change % 2 == 0);
                tokio::task::yield_now().await;
            }
            starter.send(&Order::Drain, &[]).await.unwrap();
            assert_eq!(heard.recv().await, Some(true));
            state.send_replace(true);
            let mut reports = Vec::new();
            while reports.last() != Some(&Report::Reloaded { problems: Vec::new() }) {
                reports.push(starter.receive::<Report>(1 << 20).await.unwrap().unwrap().0);
            }
            let (last, _) = starter.receive::<Report>(1 << 20).await.unwrap().unwrap();
            assert_eq!(last, Report::Connected { connected: true });
            assert!(reports.len() < 20_000, "of the states that could not be said the latest alone is");
        };
        tokio::select! {
            code = take(Some(ours), connected, obey) => panic!("it ended: {code:?}"),
            done = tokio::time::timeout(Duration::from_secs(30), unread) => done.expect("the order is heard"),
        }
    }

    #[tokio::test]
    async fn every_order_is_obeyed_and_sixteen_answers_wait_for_a_starter_that_reads_nothing() {
        let (ours, theirs) = Channel::pair().unwrap();
        let mut starter = Channel::new(theirs).unwrap();
        let (state, connected) = watch::channel(false);
        let (obeyed, mut heard) = mpsc::unbounded_channel();
        let answer = Report::Reloaded { problems: Vec::new() };
        let obey = async |_order| {
            obeyed.send(()).unwrap();
            Some(answer.clone())
        };
        let unread = async {
            // More than any socket takes.
            for change in 0..20_000 {
                state.send_replace(change % 2 == 0);
                tokio::task::yield_now().await;
            }
            for _ in 0..40 {
                starter.send(&Order::Drain, &[]).await.unwrap();
                heard.recv().await.unwrap();
            }
            state.send_replace(true);
            // Answers go before the state, so that the first state behind an answer is behind all of them.
            let (mut answers, mut last) = (0, answer.clone());
            while answers == 0 || last == answer {
                last = starter.receive::<Report>(1 << 20).await.unwrap().unwrap().0;
                answers += usize::from(last == answer);
            }
            assert_eq!(answers, 16);
        };
        tokio::select! {
            code = take(Some(ours), connected, obey) => panic!("it ended: {code:?}"),
            done = tokio::time::timeout(Duration::from_secs(30), unread) => done.expect("the orders are heard"),
        }
    }
}

//! The egress process from start to end: reads its configuration, says whether it could, serves the worker until the
//! worker's connection closes.

use std::{
    os::fd::OwnedFd,
    process::ExitCode,
    sync::{Arc, RwLock},
};

use postern_exec::{asynchronous::Channel, role::First, rpc};
use postern_net::{Asking, Dialer};
use postern_policy::{Document, Zones};
use tokio::sync::Semaphore;

use crate::{
    limits,
    message::{Answer, Configuration, LIMIT, Question, Ready},
    phases::accept::Kernel,
    recognise::Catalogue,
    registry::Registry,
    session::Perimeter,
};

/// Runs the egress role. Ends with 0 when the worker's connection closes.
pub async fn process_main(first: First<Configuration>) -> ExitCode {
    let (configuration, descriptors, mut channel) = match first.into_parts() {
        Ok(parts) => parts,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the egress process has no configuration");
            return ExitCode::from(2);
        }
    };
    let built = build(configuration, descriptors);
    let problems = built.as_ref().err().cloned().unwrap_or_default();
    if let Err(error) = channel.send(&Ready { problems }, &[]).await {
        tracing::error!(%error, "the worker does not hear the egress process");
        return ExitCode::from(3);
    }
    match built {
        Ok(registry) => serve(Arc::new(registry), channel).await,
        Err(_) => ExitCode::from(2),
    }
}

pub(crate) async fn serve(registry: Arc<Registry>, channel: Channel) -> ExitCode {
    let answering = registry.clone();
    let served = rpc::serve(channel, LIMIT, move |question: Question, descriptors| {
        let registry = answering.clone();
        async move { (registry.answer(question, descriptors).await, Vec::new()) as (Answer, Vec<OwnedFd>) }
    })
    .await;
    registry.end().await;
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the worker's connection failed");
            ExitCode::from(3)
        }
    }
}

impl Configuration {
    /// The zones as this process reads them for itself.
    pub(crate) fn zones(self) -> Result<Zones, Vec<String>> {
        Document::from_text(self.document)
            .and_then(|document| Zones::load(&document, &self.environments))
            .map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }
}

fn build(configuration: Configuration, descriptors: Vec<OwnedFd>) -> Result<Registry, Vec<String>> {
    let names = configuration.names;
    let zones = configuration.zones()?;
    let [audit, custody]: [OwnedFd; 2] =
        descriptors.try_into().map_err(|_| vec!["the audit and custody connections are missing".to_owned()])?;
    let connection = |descriptor| Channel::new(descriptor).map_err(|error| vec![error.to_string()]);
    Ok(Registry::new(
        zones,
        Arc::new(Perimeter {
            audit: Arc::new(postern_audit::Client::new(connection(audit)?)),
            custody: Arc::new(postern_custody::EgressClient::new(connection(custody)?)),
            dialer: names.map_or_else(Dialer::new, |server| Dialer::with_resolver(Arc::new(Asking::of(server)))),
            origins: Arc::new(Kernel),
            trust: Default::default(),
            bounds: limits::Bounds::default(),
            connections: Arc::new(Semaphore::new(limits::CONNECTIONS_TOTAL)),
            catalogue: RwLock::new(Arc::new(Catalogue::new(Vec::new()))),
        }),
    ))
}

//! Keeping a role running: started again when it died, with a growing pause, and ended by closing its channel.

use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use serde::{Serialize, de::DeserializeOwned};

use super::child::{self, Child, StartError};
use super::starter::Starter;
use crate::asynchronous::Channel;

/// How one role is started each time: its name, configuration, and the descriptors (a listening socket outlives its role this way).
pub struct Supervisor<C> {
    role: &'static str,
    starter: Starter,
    configuration: C,
    descriptors: Vec<OwnedFd>,
    last_start: Option<Instant>,
    pause: Duration,
}

/// A role that is running under supervision.
pub struct Running {
    /// The process.
    pub child: Child,
    /// The socket to it; closing it asks the role to drain and end.
    pub channel: Channel,
}

impl<C: Serialize> Supervisor<C> {
    /// Names what to start; starts nothing yet.
    pub fn new(role: &'static str, starter: Starter, configuration: C, descriptors: Vec<OwnedFd>) -> Self {
        Self { role, starter, configuration, descriptors, last_start: None, pause: Duration::ZERO }
    }

    /// The configuration of the next start, to be changed between two (keys are shown once, a port becomes known).
    pub fn configuration(&mut self) -> &mut C {
        &mut self.configuration
    }

    /// Starts the role and waits for its first message. After a start that did not live long it waits first: 100 ms, doubled each time up to 2 s.
    ///
    /// # Errors
    /// [`StartError`]; calling again tries again, after the pause.
    pub async fn start<R: DeserializeOwned>(&mut self) -> Result<(Running, R), StartError> {
        tokio::time::sleep(self.next_pause(Instant::now())).await;
        self.last_start = Some(Instant::now());
        let descriptors: Vec<_> = self.descriptors.iter().map(AsFd::as_fd).collect();
        let (child, channel, ready) =
            child::start_and_wait(self.role, &self.configuration, &self.starter, &descriptors).await?;
        tracing::info!(role = self.role, id = child.id(), "role started");
        Ok((Running { child, channel }, ready))
    }

    fn next_pause(&mut self, now: Instant) -> Duration {
        self.pause = match self.last_start {
            None => Duration::ZERO,
            Some(started) if now.duration_since(started) >= LIVED_LONG => FIRST_PAUSE,
            Some(_) => (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE),
        };
        self.pause
    }
}

impl Running {
    /// Closes the channel, waits for the drain, kills after `patience`.
    ///
    /// # Errors
    /// The system's.
    pub async fn stop(self, patience: Duration) -> std::io::Result<ExitStatus> {
        let Self { mut child, channel } = self;
        drop(channel);
        child.end(patience).await
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const LIVED_LONG: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_that_keeps_dying_is_started_at_growing_intervals() {
        let mut supervisor = Supervisor::new("worker", Starter::itself("/x".into()), (), Vec::new());
        let now = Instant::now();
        assert_eq!(supervisor.next_pause(now), Duration::ZERO);
        supervisor.last_start = Some(now);
        let pauses: Vec<_> = (0..8).map(|_| supervisor.next_pause(now).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 2000, 2000, 2000]);
    }

    #[test]
    fn a_role_that_lived_long_is_started_again_soon() {
        let mut supervisor = Supervisor::new("worker", Starter::itself("/x".into()), (), Vec::new());
        let now = Instant::now();
        supervisor.pause = LONGEST_PAUSE;
        supervisor.last_start = Some(now);
        assert_eq!(supervisor.next_pause(now + LIVED_LONG), FIRST_PAUSE);
    }
}

//! Logs go to standard error: text on a terminal, else JSON lines `{ts, level, target, message, fields}`.

use std::error::Error;
use std::fmt;
use std::io::{IsTerminal, stderr};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, registry};

use crate::cli::LogFormat;

/// Starts logging for this process; a second call does nothing.
pub(crate) fn start(level: LevelFilter, format: Option<LogFormat>) {
    if let Some(format) = format {
        postern_exec::role::log_as(format.name());
    }
    let format = format.unwrap_or(if stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json });
    let layer = match format {
        LogFormat::Text => {
            tracing_subscriber::fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal()).boxed()
        }
        LogFormat::Json => tracing_subscriber::fmt::layer().event_format(JsonLines).with_writer(stderr).boxed(),
    };
    let libraries = level.min(LevelFilter::WARN);
    let targets = Targets::new().with_default(level).with_targets([
        ("sqlx", libraries),
        ("hyper", libraries),
        ("hyper_util", libraries),
        ("rustls", libraries),
        // It calls a refused `initialize` an error of its own and prints its internals; whoever asked hears of it from us.
        ("rmcp", if level >= LevelFilter::DEBUG { libraries } else { LevelFilter::OFF }),
    ]);
    // Logging that already runs keeps running: the first caller chose it.
    let _ = registry().with(layer.with_filter(targets)).try_init();
}

struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = serde_json::json!({
            "ts": jiff::Timestamp::now().to_string(),
            "level": event.metadata().level().as_str(),
            "target": event.metadata().target(),
            "message": fields.message,
            "fields": fields.others,
        });
        writeln!(out, "{line}")
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    fn note(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => {
                self.others.insert(name.to_owned(), value);
            }
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.note(field, Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.note(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.note(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.note(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.note(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let mut said = vec![value.to_string()];
        let mut cause = value.source();
        while let Some(error) = cause {
            said.push(error.to_string());
            cause = error.source();
        }
        self.note(field, said.join(": ").into());
    }
}

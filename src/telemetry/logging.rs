//! Log lines on stderr, in the default format of Go's slog or as JSON.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogFormat;

/// Starts logging. `level` is slog's: -4 debug, 0 info, 4 warnings, 8 errors.
pub fn start(level: i64, format: LogFormat) {
    let filter = match level {
        ..=-5 => LevelFilter::TRACE,
        -4..=-1 => LevelFilter::DEBUG,
        0..=3 => LevelFilter::INFO,
        4..=7 => LevelFilter::WARN,
        _ => LevelFilter::ERROR,
    };
    // The caller reports a failed request, once; the libraries' own messages would repeat it.
    let libraries = if filter >= LevelFilter::DEBUG { filter } else { LevelFilter::OFF };
    let targets = Targets::new().with_default(libraries).with_target("kube_vip", filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let layer = match format {
        LogFormat::Text => layer.event_format(Slog).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_timer(Rfc3339).boxed(),
    };
    // Repeated starts, in tests, have no effect.
    drop(tracing_subscriber::registry().with(layer.with_filter(targets)).try_init());
}

struct Rfc3339;

impl tracing_subscriber::fmt::time::FormatTime for Rfc3339 {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        write!(w, "{:.6}", jiff::Timestamp::now())
    }
}

/// `2026/01/31 12:00:00 INFO message key=value`. Times are in UTC: containers have no other time zone.
struct Slog;

impl<S, N> FormatEvent<S, N> for Slog
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let now = jiff::Timestamp::now();
        let level = event.metadata().level();
        write!(writer, "{} {level} ", now.strftime("%Y/%m/%d %H:%M:%S"))?;
        context.format_fields(writer.by_ref(), event)?;
        if let Some(scope) = context.event_scope() {
            for span in scope.from_root() {
                let extensions = span.extensions();
                if let Some(fields) = extensions.get::<FormattedFields<N>>() {
                    write!(writer, " {fields}")?;
                }
            }
        }
        writeln!(writer)
    }
}

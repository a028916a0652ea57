//! Log lines on stderr, in the default format of Go's slog or as JSON.

use std::fmt::{self, Write as _};

use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use super::output::STDERR;
use crate::config::LogFormat;
use crate::model::text::printable;

/// Levels of libraries by name, such as `kube_client=trace,hyper=debug`.
const LIBRARIES: &str = "RUST_LOG";

/// Starts logging. `level` is slog's: -4 debug, 0 info, 4 warnings, 8 errors.
pub fn start(level: i64, format: LogFormat) {
    let (named, problem) = match std::env::var(LIBRARIES).unwrap_or_default().parse::<Targets>() {
        Ok(named) => (named, None),
        Err(error) => (Targets::new(), Some(error)),
    };
    let targets = targets(level, named);
    let layer = tracing_subscriber::fmt::layer().with_writer(|| &**STDERR);
    let layer = match format {
        LogFormat::Text => layer.event_format(Slog).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_timer(Rfc3339).boxed(),
    };
    // Repeated starts, in tests, have no effect.
    drop(tracing_subscriber::registry().with(layer.with_filter(targets)).try_init());
    if let Some(problem) = problem {
        tracing::warn!(
            "variable {LIBRARIES} is ignored: {problem}; write library=level, such as hyper=debug"
        );
    }
}

/// What is logged: of this program by level, of libraries by level unless they are named.
fn targets(level: i64, named: Targets) -> Targets {
    let (own, libraries) = match level {
        // At this level libraries log requests and responses, with the tokens and Secrets in them.
        ..=-5 => (LevelFilter::TRACE, LevelFilter::WARN),
        -4..=-1 => (LevelFilter::DEBUG, LevelFilter::DEBUG),
        // The caller reports a failed request, once; the libraries' own messages would repeat it.
        0..=3 => (LevelFilter::INFO, LevelFilter::OFF),
        4..=7 => (LevelFilter::WARN, LevelFilter::OFF),
        _ => (LevelFilter::ERROR, LevelFilter::OFF),
    };
    let named = named.into_iter().filter(|(library, _)| !library.is_empty());
    Targets::new().with_default(libraries).with_target("kube_vip", own).with_targets(named)
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
        let mut text = String::new();
        context.format_fields(Writer::new(&mut text), event)?;
        if let Some(scope) = context.event_scope() {
            for span in scope.from_root() {
                let extensions = span.extensions();
                if let Some(fields) = extensions.get::<FormattedFields<N>>() {
                    write!(text, " {fields}")?;
                }
            }
        }
        // Text of a user must not begin a line of its own.
        writeln!(writer, "{} {level} {}", now.strftime("%Y/%m/%d %H:%M:%S"), printable(&text))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::Level;

    use super::*;

    #[test]
    fn libraries_log_what_is_requested_only_where_they_are_named() {
        for (level, named, target, logged, not_logged) in [
            (-8, "", "kube_vip::bgp", Level::TRACE, None),
            (-8, "", "hyper::proto", Level::WARN, Some(Level::INFO)),
            (-5, "hyper=trace", "hyper::proto", Level::TRACE, None),
            (-5, "hyper=trace", "kube_client", Level::WARN, Some(Level::INFO)),
            (-5, "trace", "kube_client", Level::WARN, Some(Level::INFO)),
            (-5, "=trace", "kube_client", Level::WARN, Some(Level::INFO)),
            (-4, "", "hyper::proto", Level::DEBUG, Some(Level::TRACE)),
            (0, "hyper=debug", "hyper", Level::DEBUG, Some(Level::TRACE)),
            (0, "", "kube_vip_cloud_provider", Level::INFO, Some(Level::DEBUG)),
        ] {
            let targets = targets(level, named.parse().unwrap());
            assert!(targets.would_enable(target, &logged), "{level} {named} {target}");
            let excess = not_logged.is_some_and(|level| targets.would_enable(target, &level));
            assert!(!excess, "{level} {named} {target}");
        }
        let info = targets(0, Targets::new());
        assert!(!info.would_enable("hyper", &Level::ERROR));
    }

    #[test]
    fn text_of_a_user_begins_no_line() {
        let written = Arc::new(Mutex::new(Vec::new()));
        struct Shared(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Shared {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let shared = written.clone();
        let layer =
            tracing_subscriber::fmt::layer().with_writer(move || Shared(shared.clone())).event_format(Slog);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let forged = "x\n2026/01/01 00:00:00 INFO this node now holds the VIP\u{1b}[2J";
            tracing::warn!(service = %forged, lease = forged, "kube-vip.io/serviceVLAN: {forged}");
        });
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(
            text.contains("WARN kube-vip.io/serviceVLAN: x 2026/01/01") && !text.contains('\u{1b}'),
            "{text}"
        );
    }
}

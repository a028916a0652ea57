//! The dump on SIGUSR1: configuration and state, on stdout.

use std::fmt::Write;

use crate::config::{Config, Key, SETTINGS, show};
use crate::status::Status;

/// In the Go program's sections, as far as they exist here.
pub fn text(config: &Config, status: &Status) -> String {
    const LINE: &str = "================================================================================";
    let mut text = format!(
        "{LINE}\nKUBE-VIP CONFIGURATION DUMP\n{LINE}\nTimestamp: {:.0}\nNode Name: {}\nProcess ID: {}\n",
        jiff::Timestamp::now(),
        config.node_name,
        status.pid
    );
    let sections: [(&str, &[&str]); 5] = [
        ("BASIC CONFIGURATION", &["Address", "Mode", "API server", "Process"]),
        ("BGP CONFIGURATION", &["BGP", "Routing table"]),
        ("SERVICES CONFIGURATION", &["Services", "Load balancer", "Egress"]),
        ("LEADER ELECTION CONFIGURATION", &["Election"]),
        ("TELEMETRY CONFIGURATION", &["Telemetry"]),
    ];
    for (title, parts) in sections {
        let _infallible = writeln!(text, "\n--- {title} ---");
        for setting in SETTINGS.iter().filter(|setting| parts.contains(&setting.section)) {
            let value = show::masked(&config.raw, setting.key);
            let _infallible =
                writeln!(text, "{}: {value} ({})", name(setting.key), config.raw.origin(setting.key));
        }
    }
    let _infallible = writeln!(text, "\n--- ARP/NDP CONFIGURATION ---\n{:#?}", config.layer2);
    let _infallible = writeln!(text, "\n--- RUNTIME STATISTICS ---\n{}", status.to_text());
    let _infallible = writeln!(text, "{LINE}\nEND OF CONFIGURATION DUMP\n{LINE}");
    text
}

fn name(key: Key) -> &'static str {
    let setting = key.setting();
    setting.file.first().copied().unwrap_or_else(|| key.name())
}

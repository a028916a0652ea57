//! Watch channels that notify only of changes.

use tokio::sync::watch;

/// Sets the value. Receivers are notified if it differs; returns whether it does.
pub fn set<T: PartialEq>(to: &watch::Sender<T>, value: T) -> bool {
    to.send_if_modified(|before| {
        let changed = *before != value;
        *before = value;
        changed
    })
}

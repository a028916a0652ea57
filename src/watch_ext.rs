//! Values of which only the latest counts, and that are told of when they change.

use tokio::sync::watch;

/// This is the value now. Whoever follows it hears of it if it is another one than before; says whether it is.
pub fn set<T: PartialEq>(to: &watch::Sender<T>, value: T) -> bool {
    to.send_if_modified(|before| {
        let changed = *before != value;
        *before = value;
        changed
    })
}

//! Any text as a configuration file: no panic, and every problem is one line.
#![no_main]

use kube_vip::config::file::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (_, _, problems) = parse("fuzz.yaml", text);
    for problem in problems {
        assert!(!problem.to_string().trim_end().contains('\n') || text.contains('\n'));
    }
});

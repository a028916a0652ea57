//! The pages of the agent's ports: `/metrics`, `/healthz`, `/readyz`.

use super::http::Page;

/// A page of the metrics port.
pub fn metrics(path: &str, encode: impl FnOnce() -> String) -> Page {
    match path {
        "/metrics" => Page::metrics(encode()),
        "/" => {
            let page = "<html><head><title>kube-vip</title></head><body><h1>kube-vip</h1>\
                        <p><a href=\"/metrics\">Metrics</a></p></body></html>";
            Page::found("text/html", page.to_owned())
        }
        _ => Page::missing(),
    }
}

/// A page of the health port. The checks return what is wrong.
pub fn health(
    path: &str,
    check_live: impl FnOnce() -> Result<(), String>,
    check_ready: impl FnOnce() -> Result<(), String>,
) -> Page {
    match path {
        "/healthz" => Page::probe(check_live()),
        "/readyz" => Page::probe(check_ready()),
        _ => Page::missing(),
    }
}

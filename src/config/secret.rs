//! What no report repeats: it may hold a credential.

use super::tree::{Kind, NodeId, Tree};

/// Hides the headers that a collector is sent, and a URL of it with more than an address.
pub(super) fn hide(tree: &mut Tree, root: NodeId) {
    let Some(otlp) = tree.get(root, "otlp") else {
        return;
    };
    if let Some(headers) = tree.get(otlp, "headers") {
        tree.hide(headers);
    }
    if let Some(endpoint) = tree.get(otlp, "endpoint")
        && let Kind::Scalar(scalar) = tree.kind(endpoint)
        && may_hold_secret(&scalar.text)
    {
        tree.hide(endpoint);
    }
}

/// Whether a URL has a user, with a password maybe, or a query.
pub(super) fn may_hold_secret(url: &str) -> bool {
    url.contains(['@', '?'])
}

//! Many files, one configuration.

use super::{
    env::Environment,
    report::{Fault, Problems, quote},
    tree::{Entry, Kind, Mark, NodeId, Tree},
    yaml,
};

/// Reads every file and joins them: lists are appended to one another in the order of the
/// files, any other key may be given once. Names that are given twice are found later, like
/// those within one file.
///
/// `None` if there is nothing to go on with: what a broken file would have defined is unknown,
/// and every mention of it would be blamed.
pub(super) fn read(
    tree: &mut Tree,
    problems: &mut Problems,
    env: Environment<'_>,
) -> Option<NodeId> {
    let mut merged: Vec<Entry> = Vec::new();
    let mut whole = true;
    for file in 0..u32::try_from(tree.sources().len()).unwrap_or(u32::MAX) {
        if let Some(mark) = tree.sources()[file as usize].broken_at(file) {
            problems.add(mark, Fault::new("this is not UTF-8 text"));
            whole = false;
            continue;
        }
        let before = problems.len();
        let Some(root) = yaml::read(tree, file, problems, env) else {
            // An empty file is no mistake in a folder; a broken one has been noted.
            whole &= problems.len() == before;
            continue;
        };
        match tree.kind(root) {
            Kind::Mapping(entries) => {
                for entry in entries.clone() {
                    join(tree, &mut merged, entry, problems);
                }
            }
            Kind::Nothing => {}
            Kind::Scalar(_) | Kind::List(_) => {
                let keys = "with keys such as `listeners` and `upstreams`";
                problems.node(
                    tree,
                    root,
                    Fault::new(format!("a mapping is expected, {keys}")),
                );
                whole = false;
            }
        }
    }
    let start = Mark {
        file: 0,
        line: 1,
        column: 1,
        width: 0,
    };
    whole.then(|| tree.add(start, Kind::Mapping(merged)))
}

fn join(tree: &mut Tree, merged: &mut Vec<Entry>, entry: Entry, problems: &mut Problems) {
    let Some(first) = merged.iter_mut().find(|first| first.key == entry.key) else {
        merged.push(entry);
        return;
    };
    match (tree.kind(first.value), tree.kind(entry.value)) {
        (Kind::List(these), Kind::List(those)) => {
            let joined = these.iter().chain(those).copied().collect();
            first.value = tree.add(tree.mark(first.value), Kind::List(joined));
        }
        _ => {
            let fault = Fault::new(format!("{} is given in two files", quote(&entry.key))).hint(
                format!("the first one is at {}", tree.place(first.key_mark)),
            );
            problems.add(entry.key_mark, fault);
        }
    }
}

//! Every mistake, and what the user reads about it.

use super::*;

/// Cases of a title, a configuration and its report. With `PILLION_BLESS=1` the reports are
/// written instead of compared: read the difference.
#[test]
fn every_mistake_is_told_with_its_place() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/tests/mistakes.txt");
    let expected = fs::read_to_string(file).unwrap();
    let mut found = String::new();
    for case in expected.split("=== ").skip(1) {
        let (title, rest) = case.split_once('\n').unwrap();
        let text = rest.split_once("\n~~~\n").map_or(rest, |(text, _)| text);
        let text = text.trim_end_matches('\n');
        found.push_str(&format!(
            "=== {title}\n{text}\n~~~\n{}\n\n",
            bad(&format!("{text}\n"))
        ));
    }
    if std::env::var_os("PILLION_BLESS").is_some() {
        fs::write(file, &found).unwrap();
    } else {
        for (number, (expected, found)) in expected.lines().zip(found.lines()).enumerate() {
            assert_eq!(expected, found, "mistakes.txt, line {}", number + 1);
        }
        assert_eq!(
            expected.len(),
            found.len(),
            "mistakes.txt has more or less cases"
        );
    }
}

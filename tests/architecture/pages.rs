// SPDX-License-Identifier: GPL-3.0-or-later
//! README.md is the door to the documentation: no page is behind it unseen.

use std::fs;

use super::root;

#[test]
fn the_readme_lists_every_page() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let (_, table) = readme.split_once("## Documentation").expect("the table of pages");
    let pages = fs::read_dir(root().join("docs"))
        .expect("docs")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    let mut pages: Vec<String> =
        pages.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}")).collect();
    pages.extend(["SPECIFICATION.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(str::to_owned));
    assert!(pages.len() > 10, "{pages:?}");
    for page in pages {
        assert!(table.contains(&format!("[{page}]({page})")), "README.md does not list {page}");
    }
}

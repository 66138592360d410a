//! `weft-report` from outside: rows in, Markdown and plots out.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/report").join(name)
}

/// Runs it in a folder of its own; `RESULTS.md` and `plots` are made there.
fn report(rows: &[&Path]) -> (TempDir, Output) {
    let folder = tempfile::tempdir().unwrap();
    let output = report_in(folder.path(), rows);
    (folder, output)
}

fn report_in(folder: &Path, rows: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weft-report"))
        .args(rows)
        .args(["--out", "RESULTS.md", "--plots", "plots", "--made-by", "scripts/bench all"])
        .current_dir(folder)
        .output()
        .unwrap()
}

fn rows_file(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("rows.json");
    fs::write(&path, text).unwrap();
    path
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn rows_become_the_report() {
    let (folder, output) = report(&[&data("rows.json")]);
    assert!(output.status.success(), "{}", said(&output));
    let made = fs::read_to_string(folder.path().join("RESULTS.md")).unwrap();
    // Whoever changes the report on purpose: WEFT_BLESS=1 writes what is expected anew.
    if std::env::var_os("WEFT_BLESS").is_some() {
        fs::write(data("RESULTS.md"), &made).unwrap();
    }
    let expected = fs::read_to_string(data("RESULTS.md")).unwrap();
    for (number, (made, expected)) in made.lines().zip(expected.lines()).enumerate() {
        assert_eq!(made, expected, "line {}", number + 1);
    }
    assert_eq!(made.lines().count(), expected.lines().count());
}

/// Every plot that the report shows, and no other, is there.
#[test]
fn plots_are_pictures() {
    let (folder, output) = report(&[&data("rows.json")]);
    assert!(output.status.success(), "{}", said(&output));
    let plots = folder.path().join("plots");
    let mut names = BTreeSet::new();
    for file in fs::read_dir(&plots).unwrap() {
        names.insert(file.unwrap().file_name().into_string().unwrap());
    }
    let report = fs::read_to_string(folder.path().join("RESULTS.md")).unwrap();
    let mut shown = BTreeSet::new();
    for link in report.split("](plots/").skip(1) {
        shown.insert(link.split(')').next().unwrap().to_owned());
    }
    assert_eq!(names, shown);
    for name in &names {
        let bytes = fs::read(plots.join(name)).unwrap();
        match name.rsplit_once('.').unwrap().1 {
            "svg" => drop(roxmltree::Document::parse(&String::from_utf8(bytes).unwrap()).unwrap()),
            "png" => assert_is_picture(name, &bytes),
            other => panic!("{other}"),
        }
    }
}

/// A picture that is mostly white, and has text and figures in other colours.
fn assert_is_picture(name: &str, bytes: &[u8]) {
    let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((info.width, info.height), (1200, 480), "{name}");
    let colours = |wanted: fn(&[u8]) -> bool| pixels.chunks(3).filter(|pixel| wanted(pixel)).count();
    let white = colours(|pixel| pixel == [255; 3]);
    assert!(white > pixels.len() / 3 / 4, "{name}: {white} pixels are white");
    // The title alone has some hundreds.
    let black = colours(|pixel| pixel.iter().all(|part| *part < 64));
    assert!(black > 200, "{name}: {black} pixels are black");
    let coloured = colours(|pixel| pixel.iter().max().unwrap() - pixel.iter().min().unwrap() > 60);
    assert!(coloured > 500, "{name}: {coloured} pixels have a colour");
}

/// The shapes of each colour in a plot.
fn shapes(svg: &str, tag: &str, attribute: &str) -> std::collections::BTreeMap<String, usize> {
    let document = roxmltree::Document::parse(svg).unwrap();
    let mut found = std::collections::BTreeMap::new();
    for node in document.descendants().filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", tag))) {
        *found.entry(node.attribute(attribute).unwrap_or("none").to_owned()).or_default() += 1;
    }
    found
}

fn texts(svg: &str) -> Vec<String> {
    let document = roxmltree::Document::parse(svg).unwrap();
    let of = |node: roxmltree::Node<'_, '_>| node.text().map(|text| text.trim().to_owned());
    document.descendants().filter(|node| node.tag_name().name() == "text").filter_map(of).collect()
}

#[test]
fn bars_are_as_many_as_rows() {
    let (folder, output) = report(&[&data("rows.json")]);
    assert!(output.status.success(), "{}", said(&output));
    let svg = fs::read_to_string(folder.path().join("plots/core-64.svg")).unwrap();
    let bars = shapes(&svg, "rect", "fill");
    // One more of each colour is in the legend: bridge and route have three numbers of flows, bridge a fourth with two
    // subjects, encap has weft alone.
    for (colour, count) in [("#1F6FB4", 8), ("#8A939B", 7), ("#D9822B", 6), ("#BCC5CC", 6)] {
        assert_eq!(bars.get(colour), Some(&(count + 1)), "{colour} in {bars:?}");
    }
    let texts = texts(&svg);
    for text in ["weft", "ovs-dpdk", "testpmd-io", "testpmd-mac", "bridge", "route", "encap", "100k", "1M"] {
        assert!(texts.iter().any(|other| other == text), "{text} in {texts:?}");
    }
}

#[test]
fn lines_are_as_many_as_tables_that_grow() {
    let (folder, output) = report(&[&data("rows.json")]);
    assert!(output.status.success(), "{}", said(&output));
    for (name, lines, points) in [("scale-flows", 3, 4 + 3 + 2), ("scale-tables", 5, 3 + 3 + 2 + 2 + 2)] {
        let svg = fs::read_to_string(folder.path().join(format!("plots/{name}.svg"))).unwrap();
        let circles = shapes(&svg, "circle", "fill");
        assert_eq!((circles.len(), circles.values().sum::<usize>()), (lines, points), "{name}");
        assert_eq!(shapes(&svg, "polyline", "stroke-width").get("2"), Some(&lines), "{name}");
    }
}

#[test]
fn what_was_not_measured_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let all = fs::read_to_string(data("rows.json")).unwrap();
    let core: Vec<&str> = all.lines().filter(|line| line.contains(r#""rig": "core""#)).collect();
    assert!(core.len() > 10);
    let rows = rows_file(folder.path(), &core.join("\n"));
    let output = report_in(folder.path(), &[&rows]);
    assert!(output.status.success(), "{}", said(&output));
    let text = fs::read_to_string(folder.path().join("RESULTS.md")).unwrap();
    assert!(
        text.contains("\nNot measured in this run: vhost, scale, latency, reconf, pods, control.\n"),
        "{text}"
    );
    assert!(!text.contains("## scale") && !folder.path().join("plots/scale-flows.svg").exists());
}

/// Rows of several files are one report.
#[test]
fn files_are_joined() {
    let folder = tempfile::tempdir().unwrap();
    let all = fs::read_to_string(data("rows.json")).unwrap();
    let lines: Vec<&str> = all.lines().collect();
    let (one, other) = (folder.path().join("1.json"), folder.path().join("2.json"));
    fs::write(&one, lines[..20].join("\n")).unwrap();
    fs::write(&other, lines[20..].join("\n")).unwrap();
    let output = report_in(folder.path(), &[&other, &one]);
    assert!(output.status.success(), "{}", said(&output));
    let made = fs::read_to_string(folder.path().join("RESULTS.md")).unwrap();
    assert_eq!(made, fs::read_to_string(data("RESULTS.md")).unwrap());
}

#[test]
fn broken_rows_are_told_with_their_line() {
    let good = r#"{"rig":"core","case":"bridge","flows":1,"frame":64,"subject":"weft","mpps":40,"cycles_per_packet":65,"rounds":[39,40,41]}"#;
    let scale = r#"{"rig":"scale","case":"flows","way":"bridge","size":10,"mpps":40,"cycles_per_packet":65,"rounds":[65]}"#;
    let latency = r#"{"rig":"pods","case":"idle","subject":"weft","cpu_pct":1,"rounds":{"cpu_pct":[1]},"at_least":1,"aim":0.2,"met_at_least":true,"met_aim":false}"#;
    let add = r#"{"rig":"control","case":"cni-add","value":1.5,"alone_ms":9,"unit":"x","limit":2,"rounds":{"value":[1.5],"alone_ms":[9]}}"#;
    let loss = r#"{"rig":"control","case":"store-loss","value":0,"outage_s":60,"unit":"packets","limit":0,"rounds":{"value":[0]}}"#;
    let broken: [(&str, &str, &str, &str); 26] = [
        (good, "{", "", "this is no JSON object"),
        (good, "}", "", "EOF"),
        (good, good, "[]", "this is no JSON object"),
        (good, good, "7", "this is no JSON object"),
        (good, r#""core""#, r#""moon""#, "rig: unknown variant `moon`"),
        (good, r#""rig":"core","#, "", "missing field `rig`"),
        (good, r#""bridge""#, r#""fly""#, "case: unknown variant `fly`"),
        (good, r#""weft""#, r#""<b>""#, "subject: unknown variant"),
        (good, r#""mpps":40,"#, "", "missing field `mpps`"),
        (good, r#""mpps":40"#, r#""mpps":"40""#, "mpps: invalid type"),
        (good, r#""mpps":40"#, r#""mpps":0"#, "mpps: 0 is not above 0"),
        (good, r#""mpps":40"#, r#""mpps":-1"#, "mpps: -1 is not above 0"),
        (good, r#""mpps":40"#, r#""mpps":1e300"#, "mpps: 1e300 is no figure"),
        (good, r#""mpps":40"#, r#""mpps":1e999"#, "number out of range"),
        (good, r#""mpps":40"#, r#""mpps":50"#, "mpps is 50, but its rounds were from 39 to 41"),
        (good, r#""mpps":40"#, r#""mpps":40,"mpps":40"#, "duplicate field `mpps`"),
        (good, "[39,40,41]", "[]", "a row of no rounds"),
        (good, r#""frame":64"#, r#""frame":"huge""#, "frame: frame is neither"),
        (good, r#""flows":1"#, r#""flows":0"#, "flows is 0"),
        (good, "}", "} {}", "there is more in the line than one row"),
        (scale, r#""size":10"#, r#""size":"new""#, "size is \"new\", but the case is flows"),
        (latency, r#""cpu_pct":1,"#, "", "missing number `cpu_pct`"),
        (add, r#""alone_ms":9,"#, "", "missing number `alone_ms`, what the plugin takes by itself"),
        (add, r#""alone_ms":9,"#, r#""alone_ms":0,"#, "alone_ms: 0 is not above 0"),
        (add, r#""alone_ms":9,"#, r#""alone_ms":5,"#, "alone_ms is 5, but its rounds were from 9 to 9"),
        (loss, r#""outage_s":60,"#, "", "missing number `outage_s`, how long the store was away"),
    ];
    for (row, from, to, reason) in broken {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("RESULTS.md"), "the old one").unwrap();
        let bad = row.replacen(from, to, 1);
        assert_ne!(bad, row);
        // In the third line, behind a row that is right and an empty line.
        let first = r#"{"rig":"core","case":"route","flows":1,"frame":64,"subject":"weft","mpps":40,"cycles_per_packet":65,"rounds":[40]}"#;
        let rows = rows_file(folder.path(), &format!("{first}\n\n{bad}\n"));
        let output = report_in(folder.path(), &[&rows]);
        let said = said(&output);
        assert!(!output.status.success(), "{bad}");
        assert!(said.contains("rows.json:3: ") && said.contains(reason), "{bad}\n{said}");
        assert!(!said.contains("panicked"), "{said}");
        assert_eq!(fs::read_to_string(folder.path().join("RESULTS.md")).unwrap(), "the old one");
    }
}

#[test]
fn other_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let good = r#"{"rig":"core","case":"bridge","flows":1,"frame":64,"subject":"weft","mpps":40,"cycles_per_packet":65,"rounds":[40]}"#;
    let twice = format!("{good}\n{good}\n");
    let head = r#"{"rig":"core","date":"2026-11-21T18:01:02Z"}"#;
    for (bytes, reason) in [
        (twice.as_bytes(), "rows.json:2: rows.json:1 has this already"),
        (format!("{head}\n{head}\n").as_bytes(), "rows.json:2: rows.json:1 has this already"),
        (b"", "there is not one row in"),
        (head.as_bytes(), "there is not one row in"),
        (b"{\"rig\": \"\xff\"}", "rows.json:1: this is not UTF-8"),
    ] {
        fs::write(folder.path().join("rows.json"), bytes).unwrap();
        let output = report_in(folder.path(), &[Path::new("rows.json")]);
        assert!(!output.status.success() && said(&output).contains(reason), "{reason}: {}", said(&output));
    }
    let output = report_in(folder.path(), &[Path::new("nothing.json")]);
    assert!(!output.status.success() && said(&output).contains("nothing.json"), "{}", said(&output));
}

/// Text of rows stays text.
#[test]
fn markup_in_rows_is_shown_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let rows = concat!(
        r#"{"rig":"pods","date":"today","machine":{"cpu":"<script>|x"},"versions":{"w|":"[a](b)"}}"#,
        "\n",
        r#"{"rig":"pods","case":"<img src=x>","subject":"weft","cpu_pct":1,"rounds":{"cpu_pct":[1]},"ratio":2,"at_least":1,"aim":0.2,"met_at_least":true,"met_aim":false}"#,
    );
    let rows = rows_file(folder.path(), rows);
    let output = report_in(folder.path(), &[&rows]);
    assert!(output.status.success(), "{}", said(&output));
    let text = fs::read_to_string(folder.path().join("RESULTS.md")).unwrap();
    assert!(!text.contains("<script") && !text.contains("<img") && !text.contains("[a](b)"), "{text}");
    let svg = fs::read_to_string(folder.path().join("plots/pods.svg")).unwrap();
    assert!(texts(&svg).contains(&"<img src=x>".to_owned()), "{svg}");
}

//! curl as the client: what it does on its own accord, and what its flags make it do.

use std::io::Write;
use std::process::{Command, Stdio};

use super::support::binary::Balancer;
use super::support::echo::Echo;

each_engine!(beside_others:
    curl_keeps_one_connection_for_several_urls,
    curl_uploads_after_100_continue,
    curl_uploads_in_chunks,
    curl_with_http_1_0_gets_whole_bodies,
    curl_head_gets_fields_and_no_body,
    curl_reads_every_framing_over_one_connection,
);

/// What curl did.
struct Done {
    stdout: Vec<u8>,
    /// With `--verbose`: the heads, sent and received.
    stderr: String,
}

/// Runs curl with `input` on its standard input; it must succeed.
fn curl(arguments: &[&str], input: &[u8]) -> Done {
    let mut child = Command::new("curl")
        .args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "60"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("curl is installed");
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        // curl may end without reading it all, so an error here says nothing.
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().expect("curl ends")
    });
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "curl {arguments:?}: {}\n{stderr}", output.status);
    Done { stdout: output.stdout, stderr }
}

impl Done {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The received header lines, without their marks.
    fn received(&self) -> Vec<&str> {
        self.stderr.lines().filter_map(|line| line.strip_prefix("< ")).map(str::trim_end).collect()
    }
}

/// Bytes that compress to nothing simple, so that a shifted copy is not the same.
fn upload_of(len: usize) -> Vec<u8> {
    super::support::pattern::at(0, 60_000).iter().copied().cycle().take(len).collect()
}

fn curl_keeps_one_connection_for_several_urls(engine: &str) {
    let echo = Echo::start();
    let balancer = Balancer::start(engine, &[&echo], &[]);
    let (first, second) = (balancer.url("/first"), balancer.url("/second"));
    let done = curl(&["--write-out", " %{http_code} %{num_connects}\n", &first, &second], &[]);
    assert_eq!(done.text(), "GET /first 200 1\nGET /second 200 0\n");
    assert_eq!((echo.requests(), echo.connections()), (2, 1));
}

fn curl_uploads_after_100_continue(engine: &str) {
    let echo = Echo::start();
    let balancer = Balancer::start(engine, &[&echo], &[]);
    let body = upload_of(3 << 20);
    // Without a 100 curl would wait for half a minute; the received head below is the proof.
    let expect = ["--verbose", "--expect100-timeout", "30", "--header", "Expect: 100-continue"];
    // This one reads the body before it answers, so it has to ask for it.
    let url = balancer.url("/verify");
    let arguments = [&expect[..], &["--data-binary", "@-", &url]].concat();
    let done = curl(&arguments, &body);
    assert!(done.text().starts_with(&body.len().to_string()), "{}", done.text());
    let received = done.received();
    let statuses: Vec<_> = received.iter().filter(|line| line.starts_with("HTTP/")).collect();
    assert_eq!(statuses, [&"HTTP/1.1 100 Continue", &"HTTP/1.1 200 OK"]);
    assert!(received.contains(&"seen-framing: length"), "{received:?}");
    assert_eq!(echo.requests(), 1);
}

fn curl_uploads_in_chunks(engine: &str) {
    let echo = Echo::start();
    let balancer = Balancer::start(engine, &[&echo], &[]);
    let body = upload_of(2 << 20);
    let done = curl(&["--verbose", "--upload-file", "-", &balancer.url("/")], &body);
    assert!(done.stdout == body, "{} of {} bytes came back", done.stdout.len(), body.len());
    let received = done.received();
    assert!(received.contains(&"seen-method: PUT"), "{received:?}");
    assert!(received.contains(&"seen-framing: chunked"), "{received:?}");
    assert_eq!(echo.requests(), 1);
}

fn curl_with_http_1_0_gets_whole_bodies(engine: &str) {
    let echo = Echo::start();
    let balancer = Balancer::start(engine, &[&echo], &[]);
    let expected = curl(&[&balancer.url("/pattern/200000")], &[]).stdout;
    assert_eq!(expected.len(), 200_000);
    for target in ["/pattern/200000", "/chunked/200000"] {
        let done = curl(&["--http1.0", "--verbose", &balancer.url(target)], &[]);
        assert!(done.stdout == expected, "{target}: {} bytes", done.stdout.len());
        let received = done.received().join("\n").to_lowercase();
        assert!(received.contains(" 200"), "{received}");
        assert!(!received.contains("transfer-encoding"), "{received}");
    }
    assert_eq!(echo.requests(), 3);
}

fn curl_head_gets_fields_and_no_body(engine: &str) {
    let echo = Echo::start();
    let balancer = Balancer::start(engine, &[&echo], &[]);
    let url = balancer.url("/pattern/12345");
    let done = curl(&["--head", "--write-out", "connects: %{num_connects}\n", &url, &url], &[]);
    let text = done.text().to_lowercase();
    assert_eq!(text.matches("http/1.1 200 ok").count(), 2, "{text}");
    assert_eq!(text.matches("content-length: 12345").count(), 2, "{text}");
    assert_eq!(text.matches("seen-method: head").count(), 2, "{text}");
    assert!(text.contains("connects: 1\n") && text.contains("connects: 0\n"), "{text}");
    assert_eq!(echo.requests(), 2);
}

fn curl_reads_every_framing_over_one_connection(engine: &str) {
    let echo = Echo::start();
    let balancer = Balancer::start(engine, &[&echo], &[]);
    let targets = ["/pattern/0", "/chunked/70000", "/pattern/70000", "/chunked/0"];
    let urls = targets.map(|target| balancer.url(target));
    let mut arguments = vec!["--write-out", "\n%{http_code} %{size_download} %{num_connects}\n"];
    for url in &urls {
        arguments.extend(["--output", "/dev/null", url]);
    }
    let lines = curl(&arguments, &[]).text();
    let lines: Vec<&str> = lines.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines, ["200 0 1", "200 70000 0", "200 70000 0", "200 0 0"]);
    assert_eq!((echo.requests(), echo.connections()), (4, 1));
}

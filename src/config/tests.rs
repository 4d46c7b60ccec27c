use super::*;

#[test]
fn an_upstream_is_a_host_and_a_port() {
    for (text, host, port) in [
        ("127.0.0.1:80", "127.0.0.1", 80),
        ("app_1.example:8080", "app_1.example", 8080),
        ("[::1]:65535", "::1", 65535),
    ] {
        let authority: Authority = text.parse().unwrap();
        assert_eq!((authority.host(), authority.port()), (host, port));
        assert_eq!(authority.to_string(), text);
    }
    for text in [
        "",
        ":",
        "80",
        "host",
        "host:",
        "host:0",
        "host:65536",
        "host:+80",
        ":80",
        "::1:80",
        "[::1]",
        "[host]:80",
        "https://host:80",
        "http://host:80//",
        "http://host:80/path",
        "http://http://host:80",
        "http://",
        "user@host:80",
        "host:80,other:80",
        "host:80/",
        "ho st:80",
        "[]:80",
        "a\r\nb:80",
    ] {
        assert!(text.parse::<Authority>().is_err(), "{text:?} must be refused");
    }
}

#[test]
fn a_refused_upstream_is_told_with_its_remedy_and_without_a_password() {
    for (text, told) in [
        ("", "``: an entry is empty"),
        (" ", "` `: an entry is empty"),
        ("a:80 b:80", "`a:80 b:80`: a host has no spaces"),
        ("[::1]", "`[::1]`: add a port"),
        ("[::1]:", "`[::1]:`: the port must be a number"),
        ("::1", "`::1`: put an IPv6 address in brackets"),
        ("unix:/tmp/x", "`unix:/tmp/x`: Unix sockets are not supported"),
        ("unix:", "`unix:`: Unix sockets are not supported"),
        ("me:x@secret@a:80", "`***@a:80`: an upstream has no user name"),
        ("http://me:secret@a:80", "`http://***@a:80`: an upstream has no user name"),
        ("https://me:secret@a:80", "`https://***@a:80`: TLS"),
        ("me:x://secret@a:80", "`***@a:80`: the scheme"),
    ] {
        let error = text.parse::<Authority>().expect_err(text).to_string();
        assert!(error.starts_with(told), "{error}");
    }
    assert!("unix:80".parse::<Authority>().is_ok(), "a host may have that name");
}

#[test]
fn an_upstream_may_be_written_as_the_root_of_a_plain_url() {
    for text in ["http://host:80", "http://host:80/", "HTTP://host:80"] {
        assert_eq!(text.parse::<Authority>().unwrap().to_string(), "host:80", "{text}");
    }
}

#[test]
fn statuses_are_lists_of_ranges() {
    let set: StatusSet = "200-299, 404".parse().unwrap();
    assert!(set.contains(200) && set.contains(299) && set.contains(404));
    assert!(!set.contains(300) && !set.contains(199));
    assert_eq!(set.to_string(), "200-299,404");
    for text in ["", "99", "600", "2xx", "300-200", "200-", ",200", "0200"] {
        assert!(text.parse::<StatusSet>().is_err(), "{text:?} must be refused");
    }
    let reversed = "404,300-200".parse::<StatusSet>().unwrap_err().to_string();
    assert_eq!(reversed, "`404,300-200`: the range 300-200 is reversed; give 200-300");
}

#[test]
fn what_the_program_cannot_work_with_is_named() {
    assert_eq!(validate(&Config::default()), []);
    type Change = fn(&mut Config);
    let changes: [(&str, Change); 16] = [
        ("timeouts.idle", |c| c.timeouts.idle = Duration::MAX),
        ("timeouts.drain", |c| c.timeouts.drain = Duration::ZERO),
        ("health.interval", |c| c.health.interval = Some(Duration::ZERO)),
        ("limits.head", |c| c.limits.head = usize::MAX),
        ("limits.request_line", |c| c.limits.request_line = 0),
        ("limits.connections", |c| c.limits.connections = Some(usize::MAX)),
        ("threads", |c| c.threads = Some(0)),
        ("limits.head", |c| (c.limits.head, c.limits.request_line) = (1023, 64)),
        ("`limits.head`, which is 1K", |c| c.limits.head = 1024),
        ("limits.rate_limit_clients", |c| c.limits.rate_limit_clients = 0),
        ("retry.attempts", |c| c.retry.attempts = 1001),
        ("/x#y", |c| c.health.path = "/x#y".to_string()),
        ("10.0.0.0/8", |c| c.forwarding.trusted = vec!["10.0.0.1/8".parse().unwrap()]),
        ("x y", |c| c.health.path = "x y".to_string()),
        ("a\rb", |c| c.health.host = Some("a\rb".to_string())),
        ("``", |c| c.health.host = Some(String::new())),
    ];
    for (name, change) in changes {
        let mut config = Config::default();
        change(&mut config);
        let problems = validate(&config);
        let [problem] = &problems[..] else { panic!("{name}: {problems:?}") };
        assert!(problem.to_string().contains(name), "{problem}");
    }
    let mut config = Config::default();
    (config.threads, config.limits.fields) = (Some(0), 0);
    assert_eq!(validate(&config).len(), 2, "all are told at once");
}

#[test]
fn a_probe_never_outlasts_its_interval_by_default() {
    let mut health = HealthConfig { interval: Some(Duration::from_secs(1)), ..Default::default() };
    assert_eq!(health.probe_timeout(), Duration::from_secs(1));
    health.interval = Some(Duration::from_secs(60));
    assert_eq!(health.probe_timeout(), Duration::from_secs(5));
    health.timeout = Some(Duration::from_secs(20));
    assert_eq!(health.probe_timeout(), Duration::from_secs(20));
}

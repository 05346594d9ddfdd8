//! Every action of every role on every file, against a table that says it in one letter each.

use super::*;

/// Who may: a, yes; s, the scope is lacking; o, for operators; h, it is hidden; u, nobody is known; l, the link is for
/// something else. The roles with a dash are holders of links. One column a
/// resource: the deployment, the tenant, then files of the tenant, private to the asker, private to another, internal,
/// public, then the same three accesses of another tenant.
const TABLE: &str = "
    operator    read        a a a a a a h h h
    operator    download    a a a a a a h h a
    operator    write       a a a a a a h h h
    operator    share       a a a a a a h h h
    operator    administer  a a a a a a h h h
    operator    observe     a a a a a a h h h
    read+write  read        o a a h a a h h h
    read+write  download    o a a h a a h h a
    read+write  write       o a a h a a h h h
    read+write  share       s s s s s s s s s
    read+write  administer  s s s s s s s s s
    read+write  observe     s s s s s s s s s
    read        read        o a a h a a h h h
    read        download    o a a h a a h h a
    read        write       s s s s s s s s s
    read        share       s s s s s s s s s
    read        administer  s s s s s s s s s
    read        observe     s s s s s s s s s
    write       read        s s s s s s s s s
    write       download    s s s s s a s s a
    write       write       o a a h a a h h h
    write       share       s s s s s s s s s
    write       administer  s s s s s s s s s
    write       observe     s s s s s s s s s
    shares      read        s s s s s s s s s
    shares      download    s s s s s a s s a
    shares      write       s s s s s s s s s
    shares      share       o a a h a a h h h
    shares      administer  s s s s s s s s s
    shares      observe     s s s s s s s s s
    analytics   read        s s s s s s s s s
    analytics   download    s s s s s a s s a
    analytics   write       s s s s s s s s s
    analytics   share       s s s s s s s s s
    analytics   administer  s s s s s s s s s
    analytics   observe     o a a h a a h h h
    admin       read        o a a a a a h h h
    admin       download    o a a a a a h h a
    admin       write       o a a a a a h h h
    admin       share       o a a a a a h h h
    admin       administer  o a a a a a h h h
    admin       observe     o a a a a a h h h
    none        read        s s s s s s s s s
    none        download    s s s s s a s s a
    none        write       s s s s s s s s s
    none        share       s s s s s s s s s
    none        administer  s s s s s s s s s
    none        observe     s s s s s s s s s
    anonymous   read        u u u u u u u u u
    anonymous   download    u a u u u a u u a
    anonymous   write       u u u u u u u u u
    anonymous   share       u u u u u u u u u
    anonymous   administer  u u u u u u u u u
    anonymous   observe     u u u u u u u u u
    this-file   read        l l l l l l l l l
    this-file   download    l a a a a a h h a
    this-file   write       l l l l l l l l l
    this-file   share       l l l l l l l l l
    this-file   administer  l l l l l l l l l
    this-file   observe     l l l l l l l l l
    other-file  read        l l l l l l l l l
    other-file  download    l a h h h a h h a
    other-file  write       l l l l l l l l l
    other-file  share       l l l l l l l l l
    other-file  administer  l l l l l l l l l
    other-file  observe     l l l l l l l l l
    upload-link read        l l l l l l l l l
    upload-link download    l l l l l a l l a
    upload-link write       l a l l l l l l l
    upload-link share       l l l l l l l l l
    upload-link administer  l l l l l l l l l
    upload-link observe     l l l l l l l l l
";

fn id(byte: u8) -> Id {
    Id::from_bytes([byte; 12])
}

fn role(name: &str) -> Role {
    match name {
        "read+write" => Role::Member(vec![Scope::FilesRead, Scope::FilesWrite]),
        "read" => Role::Member(vec![Scope::FilesRead]),
        "write" => Role::Member(vec![Scope::FilesWrite]),
        "shares" => Role::Member(vec![Scope::SharesWrite]),
        "analytics" => Role::Member(vec![Scope::AnalyticsRead]),
        "admin" | "operator" => Role::Member(vec![Scope::Admin]),
        "none" => Role::Member(Vec::new()),
        "anonymous" => Role::Anonymous,
        "this-file" => Role::Link(Link::Download(id(1))),
        "other-file" => Role::Link(Link::Download(id(2))),
        "upload-link" => {
            Role::Link(Link::Upload(UploadTerms { owner: "me".to_owned(), max_size: None, content_type: None }))
        }
        _ => panic!("no role {name}"),
    }
}

fn action(name: &str) -> Action {
    match name {
        "read" => Action::Read,
        "download" => Action::Download,
        "write" => Action::Write,
        "share" => Action::Share,
        "administer" => Action::Administer,
        "observe" => Action::Observe,
        _ => panic!("no action {name}"),
    }
}

fn resources(home: &str) -> [Resource<'_>; 9] {
    let file = |tenant, owner, access| Resource::File { id: id(1), tenant, owner, access };
    [
        Resource::Deployment,
        Resource::Tenant,
        file(home, "me", Access::Private),
        file(home, "you", Access::Private),
        file(home, "you", Access::Internal),
        file(home, "you", Access::Public),
        file("away", "me", Access::Private),
        file("away", "me", Access::Internal),
        file("away", "me", Access::Public),
    ]
}

#[test]
fn every_decision_is_the_tables() {
    let rows: Vec<_> = TABLE.lines().filter(|line| !line.trim().is_empty()).collect();
    assert_eq!(rows.len(), 12 * 6, "every role with every action");
    for row in rows {
        let words: Vec<_> = row.split_whitespace().collect();
        let (who, what, expected) = (words[0], words[1], &words[2..]);
        let home = if who == "operator" { DEFAULT_TENANT } else { "home" };
        let principal = Principal { actor: "me".to_owned(), tenant: home.to_owned(), role: role(who) };
        let decided = resources(home).map(|resource| match permit(&principal, action(what), resource) {
            Ok(()) => "a",
            Err(Refusal::Lacks(_)) => "s",
            Err(Refusal::NoOperator) => "o",
            Err(Refusal::Hidden) => "h",
            Err(Refusal::Unknown) => "u",
            Err(Refusal::OtherLink) => "l",
        });
        assert_eq!(decided, expected, "{who} {what}");
    }
}

#[test]
fn names_are_read_back_and_others_allow_nothing() {
    assert!(Scope::ALL.iter().all(|scope| Scope::from_name(scope.name()) == Some(*scope)));
    for other in ["", "ADMIN", "files:*", "files:read ", "shares"] {
        assert_eq!(Scope::from_name(other), None);
    }
    assert_eq!(Access::from_name("PUBLIC"), None);
}

//! Who a container runs as: numbers and names, looked up in the image's own /etc/passwd and /etc/group.

use super::spec::{Identity, UserSpec};

/// Longest passwd or group file that is read.
pub const FILE_BYTES_MAX: u64 = 4 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn users(passwd: &str) -> impl Iterator<Item = User<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, _, uid, gid, _, home) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next(), fields.next());
        Some(User { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home: home.unwrap_or_default() })
    })
}

/// Name, number and members.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
        Some((name, gid.parse().ok()?, fields.next().unwrap_or_default()))
    })
}

/// Resolves as containerd does: the pod's numbers win over the image's user; a number needs no entry in passwd, a name does.
pub fn resolve(spec: &UserSpec, passwd: &str, group: &str) -> Result<Identity, String> {
    let (image_user, image_group) = match spec.image.split_once(':') {
        Some((user, group)) => (user, group),
        None => (spec.image.as_str(), ""),
    };
    let number = if spec.uid.is_some() { spec.uid } else { parse_id(image_user)? };
    let (uid, found) = match number {
        Some(uid) => (uid, users(passwd).find(|u| u.uid == uid)),
        None if image_user.is_empty() => (0, users(passwd).find(|u| u.uid == 0)),
        None => {
            let user = users(passwd).find(|u| u.name == image_user);
            let user = user.ok_or_else(|| format!("unable to find user {image_user}: no matching entries in passwd file"))?;
            (user.uid, Some(user))
        }
    };
    let gid = match spec.gid {
        Some(gid) => gid,
        None if spec.uid.is_none() && !image_group.is_empty() => group_id(image_group, group)?,
        None => found.as_ref().map_or(0, |u| u.gid),
    };
    let mut all = vec![gid];
    if let Some(user) = found.as_ref().filter(|_| !spec.strict) {
        all.extend(groups(group).filter(|(_, _, members)| members.split(',').any(|m| m == user.name)).map(|(_, gid, _)| gid));
    }
    all.extend(&spec.groups);
    let mut seen = std::collections::HashSet::new();
    all.retain(|gid| seen.insert(*gid));
    let home = found.map(|u| u.home).filter(|h| !h.is_empty()).unwrap_or("/").to_owned();
    Ok(Identity { uid, gid, groups: all, home })
}

fn group_id(text: &str, group: &str) -> Result<u32, String> {
    match parse_id(text)? {
        Some(gid) => Ok(gid),
        None => groups(group)
            .find(|(name, ..)| *name == text)
            .map(|(_, gid, _)| gid)
            .ok_or_else(|| format!("unable to find group {text}: no matching entries in group file")),
    }
}

/// A number in range, or `None` for a name. Digits out of range are an error: they must never become root by overflow (CVE-2024-40635).
fn parse_id(text: &str) -> Result<Option<u32>, String> {
    let number = text.strip_prefix('-').unwrap_or(text);
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= i32::MAX as u32 => Ok(Some(id)),
        _ => Err(format!("user or group id {text} is out of range")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n# nonsense\nbroken:x:y\n99999999999:x:5:5::/:\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,app\naudio:x:29:app\nstaff:x:50:other\n";

    fn check(spec: UserSpec, expected: &str) {
        let found = resolve(&spec, PASSWD, GROUP).map_or_else(|e| e, |i| format!("{}:{} {:?} {}", i.uid, i.gid, i.groups, i.home));
        assert_eq!(found, expected, "for {spec:?}");
    }

    fn image(user: &str) -> UserSpec {
        UserSpec { image: user.into(), ..UserSpec::default() }
    }

    #[test]
    fn the_images_user_is_looked_up_in_the_image() {
        check(image(""), "0:0 [0, 10] /root");
        check(image("app"), "1000:1001 [1001, 10, 29] /home/app");
        check(image("1000"), "1000:1001 [1001, 10, 29] /home/app");
        check(image("app:audio"), "1000:29 [29, 10] /home/app");
        check(image("app:7"), "1000:7 [7, 10, 29] /home/app");
        check(image("4242"), "4242:0 [0] /");
        check(image("nobody"), "unable to find user nobody: no matching entries in passwd file");
        check(image("app:nogroup"), "unable to find group nogroup: no matching entries in group file");
    }

    #[test]
    fn the_pods_numbers_win() {
        check(UserSpec { uid: Some(1000), image: "root:wheel".into(), ..UserSpec::default() }, "1000:1001 [1001, 10, 29] /home/app");
        check(UserSpec { uid: Some(5000), gid: Some(6), groups: vec![8, 6, 9], ..UserSpec::default() }, "5000:6 [6, 8, 9] /");
        check(UserSpec { uid: Some(1000), groups: vec![8], strict: true, ..UserSpec::default() }, "1000:1001 [1001, 8] /home/app");
    }

    #[test]
    fn numbers_out_of_range_never_become_root() {
        check(image("4294967296"), "user or group id 4294967296 is out of range");
        check(image("2147483648"), "user or group id 2147483648 is out of range");
        check(image("-1"), "user or group id -1 is out of range");
        check(image("0:4294967296"), "user or group id 4294967296 is out of range");
    }
}

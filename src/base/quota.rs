//! How much processor time the process's control groups let it have.

use super::line::Line;

/// The list of control groups that a process is in, and a file of one: small, as stacks may be.
type Groups = Line<2048>;
type Text = Line<64>;
/// Where such a file is; a path that is longer finds nothing.
type Path = Line<384>;

/// CPUs that the control groups of the process allow it, in thousandths; `None` = as many as it
/// can run on. A group is allowed no more than the one that contains it, so the least counts.
///
/// Reads `cpu.max` (version 2) and `cpu.cfs_quota_us` (version 1).
#[inline(never)] // its stack is given back before others are needed
pub fn cpu_quota() -> Option<u64> {
    let mut groups = Groups::empty();
    groups.fill("/proc/self/cgroup")?;
    least_quota(&groups, Text::read)
}

fn least_quota(groups: &str, read: impl Fn(&str) -> Option<Text>) -> Option<u64> {
    let quotas = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        if controllers.is_empty() {
            return least_of(path, |group| {
                quota_v2(&read(&Path::of(format_args!("{ROOT}{group}/cpu.max")))?)
            });
        }
        controllers.split(',').find(|&name| name == "cpu")?;
        // The hierarchy is mounted by its whole name, with a link from the short one or without.
        least_of(path, |group| {
            [controllers, "cpu"].iter().find_map(|name| {
                let file = |what: &str| {
                    read(&Path::of(format_args!("{ROOT}/{name}{group}/cpu.cfs_{what}_us")))
                };
                thousandths(&file("quota")?, &file("period")?)
            })
        })
    });
    quotas.min()
}

const ROOT: &str = "/sys/fs/cgroup";

/// The least quota of a group and those that contain it. In a namespace of its own a process sees
/// its group as "/", and paths that lead out of it ("/../..") name nothing that can be read.
fn least_of(path: &str, quota: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    ends.filter_map(|end| quota(path[..end].trim_end_matches('/'))).min()
}

/// `cpu.max`: a quota or "max", and a period, both in microseconds.
fn quota_v2(text: &str) -> Option<u64> {
    let (quota, period) = text.trim().split_once(' ')?;
    thousandths(quota, period)
}

fn thousandths(quota: &str, period: &str) -> Option<u64> {
    let quota: u64 = quota.trim().parse().ok()?; // neither "max" nor -1
    let period: u64 = period.trim().parse().ok()?;
    quota.checked_mul(1000)?.checked_div(period)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Option<u64> {
        let found = |path: &str| list.iter().find(|(name, _)| *name == path);
        let read = |path: &str| found(path).map(|(_, text)| Text::of(format_args!("{text}")));
        least_quota(found("/proc/self/cgroup")?.1, read)
    }

    #[test]
    fn the_least_of_nested_groups_counts() {
        let own = ("/proc/self/cgroup", "0::/robot/speech\n");
        let outer = ("/sys/fs/cgroup/robot/cpu.max", "150000 100000\n");
        assert_eq!(files(&[own]), None);
        assert_eq!(files(&[own, outer]), Some(1500));
        let inner = ("/sys/fs/cgroup/robot/speech/cpu.max", "max 100000\n");
        assert_eq!(files(&[own, outer, inner]), Some(1500));
        let inner = ("/sys/fs/cgroup/robot/speech/cpu.max", "50000 100000\n");
        assert_eq!(files(&[own, outer, inner]), Some(500));
    }

    #[test]
    fn a_namespace_of_its_own_is_the_root() {
        let own = ("/proc/self/cgroup", "0::/\n");
        assert_eq!(files(&[own, ("/sys/fs/cgroup/cpu.max", "200000 100000")]), Some(2000));
    }

    #[test]
    fn version_1_is_known_too() {
        let own = ("/proc/self/cgroup", "5:memory:/m\n4:cpu,cpuacct:/a\n0::/\n");
        let dir = "/sys/fs/cgroup/cpu,cpuacct/a";
        let (quota, period) =
            (format!("{dir}/cpu.cfs_quota_us"), format!("{dir}/cpu.cfs_period_us"));
        let quota_of = |text| files(&[own, (&quota, text), (&period, "100000\n")]);
        assert_eq!(quota_of("-1\n"), None);
        assert_eq!(quota_of("250000\n"), Some(2500));
    }

    #[test]
    fn nonsense_is_no_quota() {
        for text in ["", "max", "5", "5 0", "-5 100", "99999999999999999999 1"] {
            let own = ("/proc/self/cgroup", "0::/\n");
            assert_eq!(files(&[own, ("/sys/fs/cgroup/cpu.max", text)]), None, "{text}");
        }
        assert_eq!(files(&[("/proc/self/cgroup", "0\n:\n::\n1:cpu\n")]), None);
    }
}

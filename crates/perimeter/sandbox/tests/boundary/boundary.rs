//! First: it stands.

use crate::probe::Ask;
use crate::stand::Stand;

#[test]
fn a_command_runs_as_the_agent_in_the_workspace() {
    let stand = Stand::new();
    let told = stand.bash("id -u; id -g; id -un; pwd; echo $HOME; echo $PLACEHOLDER; hostname; touch x && ls");
    assert_eq!(told.text, "1000\n1000\nagent\n/workspace\n/workspace/.home\npstn-value\nsandbox\nx\n");
    assert_eq!(told.code, 0);
    let own = stand.ask(&Ask::Read("/proc/self/status".into()));
    println!("{}", own.text);
}

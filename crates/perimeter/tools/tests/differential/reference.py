"""Runs calls against the official SDK's own tool implementations and prints what they answered.

Input (stdin): {"scenarios": [{"workdir": str, "roots": [{"path", "access"}], "calls": [{"name", "input"}]}]}.
Output: for each scenario a list of {"is_error", "content"} in the shape that the SDK's session runner would post.
"""

import json
import sys

import anyio
from anthropic.lib.tools._beta_functions import ToolError
from anthropic.lib.tools._beta_session_runner import TOOL_TIMEOUT, _to_session_content
from anthropic.lib.tools._tool_dispatch import run_runnable_tool, tool_error_content, tool_result_content
from anthropic.lib.tools.agent_toolset import AgentToolContext, beta_agent_toolset_20260401


async def call(tool, name, arguments):
    is_error = True
    try:
        with anyio.fail_after(TOOL_TIMEOUT):
            content, is_error = tool_result_content(await run_runnable_tool(tool, arguments)), False
    except TimeoutError:
        content = f"tool {name!r} timed out"
    except ToolError as error:
        content = tool_error_content(error)
    except Exception as error:
        content = tool_error_content(error)
    return {"is_error": is_error, "content": _to_session_content(content)[0]}


async def scenario(one):
    from pathlib import Path

    context = AgentToolContext(
        workdir=one["workdir"],
        allowed_roots=[Path(root["path"]) for root in one["roots"]],
        read_only_roots=[Path(root["path"]) for root in one["roots"] if root["access"] == "read"],
    )
    tools = {tool.name: tool for tool in beta_agent_toolset_20260401(context)}
    answers = [await call(tools[each["name"]], each["name"], each["input"]) for each in one["calls"]]
    shell = getattr(tools["bash"], "_context_manager", None)
    if shell is not None:
        await shell.__aexit__(None, None, None)
    return answers


async def main():
    given = json.load(sys.stdin)
    json.dump([await scenario(one) for one in given["scenarios"]], sys.stdout)


anyio.run(main)

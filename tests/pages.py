"""README and the pages in docs/, and what they tell people to type."""

import re
import shlex
from pathlib import Path

PROJECT = Path(__file__).parent.parent
PAGES = {
    file.relative_to(PROJECT).as_posix(): file.read_text(encoding="utf-8")
    for file in [PROJECT / "README.md", *sorted(PROJECT.glob("docs/*.md"))]
}

TRIED_PAGES = (
    "README.md",
    "docs/first_run.md",
    "docs/own_code.md",
    "docs/faults.md",
)  # tests run their trainings


def commands(*pages):
    """Give the commands of some pages, of all without a name: each once, in one line, without its comment."""
    found = set()
    for page in pages or PAGES:
        blocks = re.findall(r"^```bash\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)
        blocks += re.findall(r"^    (python .*)", PAGES[page], re.MULTILINE)  # of settings.md, which a script writes
        for line in re.sub(r" *\\\n *", " ", "\n".join(blocks)).splitlines():
            command = re.sub(r" {2,}#.*| {4,}[^ ].*", "", line).strip()
            found.update(re.split(r" && (?=python -m cnn_sweeps)", command))
    return sorted(found - {""})


def training_commands(*pages):
    """Give the arguments of the pages' trainings and sweeps, as `commands` does."""
    words = [shlex.split(command) for command in commands(*pages)]
    return sorted({shlex.join(each[3:]) for each in words if each[:3] == ["python", "-m", "cnn_sweeps.train"]})


def not_in_others(commands):
    """Leave out commands all of whose words another one has, too."""
    words = {command: frozenset(shlex.split(command)) for command in commands}
    return sorted(command for command, own in words.items() if not any(own < others for others in words.values()))


def block(page, language, containing):
    """Give the only block of a page in a language that contains a text."""
    (found,) = [text for text in re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL) if containing in text]
    return found

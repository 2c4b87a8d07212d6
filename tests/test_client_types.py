"""What a type checker tells callers of the client."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CALLS = {
    'client.embed("x.jpg")': "Embedding",
    'client.embed(["x.jpg"])': "list[Embedding]",
    "client.embed([Path()])": "list[Embedding]",
    'client.embed(b"", errors="return")': "Embedding | ImageError",
    'client.embed([b"", Path()], errors="return")': "list[Embedding | ImageError]",
    "client.embed(np.zeros((2, 2, 3), np.uint8))": "Embedding",
    "client.embed(Image.new('RGB', (2, 2)))": "Embedding",
    "client.embed([Image.new('RGB', (2, 2)), Prepared(np.zeros((2, 2), np.float32))])": "list[Embedding]",
    "client.embed(path for path in Path().iterdir())": "list[Embedding]",
    "client.health()": "Health",
    "client.models()": "list[ServedModel]",
}


def test_both_clients_are_typed_by_what_they_are_given(tmp_path: Path) -> None:
    lines = [
        "from pathlib import Path",
        "import numpy as np",
        "from PIL import Image",
        "from vitral_client import AsyncClient, Client, Prepared",
        "async def blocking(client: Client) -> None:",
        *(f"    reveal_type({call})" for call in CALLS),
        "async def awaiting(client: AsyncClient) -> None:",
        *(f"    reveal_type(await {call})" for call in CALLS),
    ]
    script = tmp_path / "calls.py"
    script.write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(script)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    revealed = re.findall(r'Revealed type is "(.*)"', done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [re.sub(r"[\w.]+\.(\w+)", r"\1", name) for name in revealed] == [*CALLS.values()] * 2

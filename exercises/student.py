"""Write notebooks to work in: the main ones without outputs, the exercises without solutions.

`python exercises/student.py [FOLDER]` (default: `student`) writes FOLDER/notebooks and FOLDER/exercises. A
file that is there already stays, since somebody may have worked in it.

The cells of an exercise are tagged `starter`, `check` and `solution`, in this order; others are given to it.
"""

import json
import re
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
LEAVES = re.compile(r"\]\(\.\./(?!notebooks/|exercises/)")  # a link out of the two folders


def for_students(book):
    """The notebook without solutions and outputs, and with links that hold one folder further down."""
    book["cells"] = [cell for cell in book["cells"] if "solution" not in cell["metadata"].get("tags", ())]
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
        else:
            cell["source"] = [LEAVES.sub("](../../", line) for line in cell["source"]]
    return book


def main(folder):
    """Write what is not in the folder yet."""
    for path in sorted(REPOSITORY.glob("notebooks/*.ipynb")) + sorted(REPOSITORY.glob("exercises/*.ipynb")):
        copy = folder / path.relative_to(REPOSITORY)
        if copy.exists():
            print(f"{copy}: stays as it is; remove it to get a new one")
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        book = for_students(json.loads(path.read_text(encoding="utf-8")))
        copy.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "student"))

"""Tables of pages that a script writes."""

END = "<!-- end of the table -->\n"


def with_table(page: str, script: str, table: str) -> str:
    """A page with the table of a script replaced."""
    begin = f"<!-- table of {script} -->\n"
    before, _, rest = page.partition(begin)
    return f"{before}{begin}{table}{END}{rest.partition(END)[2]}"

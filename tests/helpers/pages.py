"""Reads a report's page as its tests look at it."""

import html.parser


class Page(html.parser.HTMLParser):
    """The tables, headings, pictures and text of a page."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tables, self.headings, self.text, self.open, self.attributes = {}, [], "", [], []
        self.feed(self.source)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.attributes.append((tag, dict(attrs)))
        if tag in ("meta", "link", "img", "wbr"):
            return
        self.open.append(tag)
        if tag == "table":
            self.rows, self.caption = [], ""
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag in ("h1", "h2", "h3"):
            self.headings.append((int(tag[1]), ""))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "table":
            self.tables[self.caption] = [dict(zip(self.rows[0], row, strict=True)) for row in self.rows[1:]]

    def handle_data(self, data):
        if {"script", "style"} & {*self.open}:
            return
        self.text += data
        if "caption" in self.open:
            self.caption += data
        elif {"td", "th"} & {*self.open}:
            self.rows[-1][-1] += data
        elif self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings[-1] = (self.headings[-1][0], self.headings[-1][1] + data)

    def table(self, begin):
        return next(rows for caption, rows in self.tables.items() if caption.startswith(begin))

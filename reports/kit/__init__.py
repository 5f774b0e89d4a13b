"""The parts of HTML pages: text, tables, cards and charts. Each page is made from these."""

"""JMESPath expressions whose lists keep what is missing.

A projection (`lines[].sku`) leaves out elements without a value. In a list of items that a user bought or may not be offered, the
missing element must be noticed: it stays as None, which no list of item ids may contain.
"""

from typing import Any

from jmespath.visitor import TreeInterpreter


def search_keeping_nulls(expression: Any, value: Any) -> Any:
    """Returns what a compiled expression finds in a value, with None for each element of a projection that has no value.

    >>> import jmespath
    >>> search_keeping_nulls(jmespath.compile("lines[].sku"), {"lines": [{"sku": "18"}, {}]})
    ['18', None]
    """
    return _NullKeepingInterpreter().visit(expression.parsed, value)


class _NullKeepingInterpreter(TreeInterpreter):  # type: ignore[misc]
    """JMESPath's evaluation but for projections; tests/unit/test_partial_data.py compares the two."""

    def visit_projection(self, node: Any, value: Any) -> Any:
        elements = self.visit(node["children"][0], value)
        return [self.visit(node["children"][1], element) for element in elements] if isinstance(elements, list) else None

    def visit_filter_projection(self, node: Any, value: Any) -> Any:
        elements = self.visit(node["children"][0], value)
        if not isinstance(elements, list):
            return None
        fitting = [element for element in elements if self._is_true(self.visit(node["children"][2], element))]
        return [self.visit(node["children"][1], element) for element in fitting]

    def visit_value_projection(self, node: Any, value: Any) -> Any:
        elements = self.visit(node["children"][0], value)
        return [self.visit(node["children"][1], element) for element in elements.values()] if isinstance(elements, dict) else None

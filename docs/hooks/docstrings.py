"""A public name without docstring is a warning, which the strict build ends with."""

import griffe

logger = griffe.get_logger("docstrings")


class PublicDocstrings(griffe.Extension):
    """Looks at the functions and classes that the package and its rooms export."""

    def on_package(self, *, pkg: griffe.Module, **_: object) -> None:
        """Warn of each that lacks one."""
        for module in (pkg, *(pkg[name] for name in pkg.exports or [] if pkg[name].is_module)):
            for member in module.members.values():
                if member.is_public and (member.is_function or member.is_class) and not member.has_docstring:
                    logger.warning(f"{member.canonical_path} is public and has no docstring")

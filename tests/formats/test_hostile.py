"""Files that are meant to do harm, and files that are wrong in every way that their authors could think of.

Each is read in a process with limits on time and memory, and must end in a model or problem, or in an error of kinbayes
that says where.
"""

import codecs
import os
from pathlib import Path

import pytest

from kinbayes.formats.files import LARGEST, is_inside, read_bytes, shown
from kinbayes.formats.petab import table as petab_table
from kinbayes.formats.petab.table import PEtabError, read_rows
from kinbayes.model.expressions import const, symbol
from kinbayes.model.formula import CONSTANTS, parse
from tests.formats.guarded import Reader
from tests.formats.sbml.test_sbml_comp import GROWING, composed, definition, external, submodels
from tests.formats.sbml.text import (
    BOX,
    RATE_OF,
    TIME,
    apply,
    call,
    ci,
    cn,
    document,
    event,
    function,
    math_ml,
    parameter,
    reference,
    rule,
    species,
)
from tests.formats.sbml.text import reaction as reaction_of

MODELS = Path(__file__).parents[2] / "models"
HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
BODY = document(Compartments=BOX, Species=species("S"), Parameters=parameter("k")).removeprefix(HEAD)
COMP = "http://www.sbml.org/sbml/level3/version1/comp/version1"
LAYOUT = 'xmlns:layout="http://www.sbml.org/sbml/level3/version1/layout/version1" layout:required="false"'
READ = None  # what is expected of a file that is read


@pytest.fixture(scope="module")
def read():
    with Reader("tests.formats.guarded") as reader:
        yield reader


def check(outcome, expected, place=""):
    """Compare what became of a file with what was expected: `READ`, or a part of the error."""
    told = f"{outcome.kind}, {outcome.error}: {outcome.message}"
    if expected is READ:
        assert outcome.kind == "read", told
    else:
        assert outcome.kind == "refused", told
        assert expected in outcome.message, told
        assert place in outcome.message, told
        assert len(outcome.message) < 2000, told


# ---- XML


def entities(count):
    levels = "".join(f'<!ENTITY a{k} "{f"&a{k - 1};" * 10}">' for k in range(1, count))
    return f'<!DOCTYPE sbml [<!ENTITY a0 "ha">{levels}]>'


def inside(text, where="<listOfParameters>"):
    return HEAD + BODY.replace(where, where + text)


def ruled(content, *names):
    return document(Parameters="".join(map(parameter, ("k", "j", *names))), Rules=rule("assignment", "k", content))


def of_level_2(attributes):
    """A document with what libsbml does not survive if level, version and namespaces contradict each other."""
    return (
        f"<sbml {attributes}><model><listOfReactions><reaction><listOfProducts><speciesReference><stoichiometryMath/>"
        "</speciesReference></listOfProducts></reaction></listOfReactions></model></sbml>"
    )


def of_level_1(formula):
    return (
        '<sbml xmlns="http://www.sbml.org/sbml/level1" level="1" version="2"><model name="m">'
        '<listOfCompartments><compartment name="c"/></listOfCompartments><listOfParameters>'
        '<parameter name="k" value="1"/><parameter name="j" value="1"/></listOfParameters>'
        f'<listOfRules><parameterRule name="k" formula="{formula}"/></listOfRules></model></sbml>'
    )


XML = {
    "a billion laughs": (HEAD + entities(10) + BODY, "line 2: entity 'a0' is declared"),
    "a long entity": (f'{HEAD}<!DOCTYPE sbml [<!ENTITY a "{"x" * 100_000}">]>{BODY}', "entity 'a' is declared"),
    "an external entity": (f'{HEAD}<!DOCTYPE sbml [<!ENTITY a SYSTEM "file:///etc/passwd">]>{BODY}', "entity 'a'"),
    "a parameter entity": (f'{HEAD}<!DOCTYPE sbml [<!ENTITY % a SYSTEM "/etc/passwd"> %a;]>{BODY}', "entity 'a'"),
    "an undefined entity": (inside("&a;"), "undefined entity"),
    "an external DTD": (f'{HEAD}<!DOCTYPE sbml SYSTEM "pipe">{BODY}', READ),
    "a processing instruction": (inside("<?php exit() ?>"), READ),
    "an inclusion": (inside('<i:include xmlns:i="http://www.w3.org/2001/XInclude" href="/etc/passwd"/>'), READ),
    "deep annotations": (inside("<annotation>" + "<a xmlns='b'>" * 10_000), "nested more than 1000 deep"),
    "deep mathematics": (ruled("<apply><sin/>" * 10_000 + ci("j") + "</apply>" * 10_000), "more than 1000 deep"),
    "mathematics of 900 levels": (ruled("<apply><sin/>" * 900 + ci("j") + "</apply>" * 900), READ),
    "a long sum": (ruled(apply("plus", *[ci("j")] * 100_000)), "more than 5,000 arguments"),
    "a sum of 4000 terms": (ruled(apply("plus", *[ci("j")] * 4000)), READ),
    "a long piecewise": (
        ruled("<piecewise>" + "<piece><cn>1</cn><true/></piece>" * 6000 + "</piecewise>"),
        "arguments",
    ),
    "a long formula of Level 1": (of_level_1("+".join("j" * 300_000)), "more than 20,000 characters"),
    "a deep formula of Level 1": (of_level_1("(" * 9000 + "j" + ")" * 9000), READ),
    "no formula of Level 1": (of_level_1("^^^"), "cannot read its formula '^^^'"),
    "an unknown encoding": (HEAD.replace("UTF-8", "nonsense") + BODY, "it is in 'nonsense'; save it as UTF-8"),
    "UTF-7": (HEAD.replace("UTF-8", "UTF-7") + BODY, "it is in 'UTF-7'"),
    "Shift-JIS": (HEAD.replace("UTF-8", "Shift_JIS") + BODY, "it is in 'Shift_JIS'"),
    "Windows": ((HEAD.replace("UTF-8", "windows-1252") + BODY), "it is in 'windows-1252'"),
    "UTF-16": (BODY.encode("utf-16"), READ),
    "UTF-16, declared": ((HEAD.replace("UTF-8", "UTF-16") + BODY).encode("utf-16"), READ),
    "UTF-16 declared as UTF-8": ((HEAD + BODY).encode("utf-16"), "encoding specified in XML declaration is incorrect"),
    "UTF-8 declared as UTF-16": (HEAD.replace("UTF-8", "UTF-16") + BODY, "encoding specified"),
    "UTF-8 with a mark": (codecs.BOM_UTF8 + (HEAD + BODY).encode(), READ),
    "Latin-1": ((HEAD.replace("UTF-8", "ISO-8859-1") + BODY.replace('"m"', '"m" name="ä"')).encode("latin-1"), READ),
    "Latin-1 declared as UTF-8": (
        (HEAD + BODY.replace('"m"', '"m" name="ä"')).encode("latin-1"),
        "line 3: this is not",
    ),
    "ends of lines of Windows": ((HEAD + BODY).replace("\n", "\r\n"), READ),
    "ends of lines of old Macs": ((HEAD + BODY).replace("\n", "\r"), READ),
    "a zero byte": (inside("\0"), "not well-formed"),
    "nothing": ("", "no element found"),
    "bytes": (bytes(range(256)) * 100, "not well-formed"),
    "a web page": ("<html><body>404</body></html>", "line 1"),
    "two documents": (BODY + BODY, "junk after document element"),
    "half a document": ((HEAD + BODY)[:-30], "not well-formed XML"),
    "no such level": (BODY.replace('level="3"', 'level="9"'), "level and version"),
    "no such namespace": (
        BODY.replace("level3/version2/core", "level3/version9/core"),
        "there is no SBML of the namespace",
    ),
    "a package in Level 2": (document(level="2", version="4", root=LAYOUT, Compartments='<compartment id="c"/>'), READ),
    "another version than the namespace": (
        of_level_2('xmlns="http://www.sbml.org/sbml/level2/version5" level="2" version="4"'),
        "level and version are ('2', '4'); the namespace is that of level '2' and version '5'",
    ),
    "no version": (of_level_2('xmlns="http://www.sbml.org/sbml/level2/version5" level="2"'), "are ('2', None)"),
    "another namespace": (
        of_level_2('xmlns="http://www.sbml.net/sbml/level2/version5" level="2" version="5"'),
        "are those of its namespace, not 'http://www.sbml.net/sbml/level2/version5'",
    ),
    "two namespaces": (
        BODY.replace("<sbml ", '<sbml xmlns:x="http://www.sbml.org/sbml/level2" ', 1),
        "level2 is not that of the document",
    ),
    "a namespace further in": (
        inside('<annotation><x:y xmlns:x="http://www.sbml.org/sbml/level2"/></annotation>'),
        "level2 is not that of the document",
    ),
}


@pytest.mark.parametrize("name", XML)
def test_a_text_in_place_of_sbml(name, read, tmp_path):
    text, expected = XML[name]
    os.mkfifo(tmp_path / "pipe")  # what opens it waits for ever
    path = tmp_path / "model.xml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    check(read(["sbml", str(path)]), expected, str(path))


# ---- SBML


def chain(count, body):
    """Functions f0 to f<count - 1>, each in terms of the one before."""
    first = function("f0", ["x"], apply("times", ci("x"), ci("x")))
    return first + "".join(function(f"f{k}", ["x"], body(f"f{k - 1}")) for k in range(1, count))


def functions(count, body):
    return document(
        FunctionDefinitions=chain(count, body),
        Parameters=parameter("k") + parameter("j"),
        Rules=rule("assignment", "k", call(f"f{count - 1}", ci("j"))),
    )


def nested(count, *names):
    """Models m0 to m<count>, each of which contains the one before under some names."""
    contents = [GROWING, *(submodels(*names, of=f"m{k}") for k in range(count))]
    parts = (f'<comp:modelDefinition id="m{k}">{c}</comp:modelDefinition>' for k, c in enumerate(contents))
    definitions = f"<comp:listOfModelDefinitions>{''.join(parts)}</comp:listOfModelDefinitions>"
    return composed(submodels(*names, of=f"m{count}"), definitions)


def dense(count, coefficient):
    """Algebraic rules, each in all of the unknowns."""
    names = [f"a{k}" for k in range(count)]
    sums = [
        apply("plus", *(apply("times", coefficient(i, k), ci(n)) for k, n in enumerate(names))) for i in range(count)
    ]
    zeros = "".join(f"<algebraicRule>{math_ml(apply('minus', total, cn(1)))}</algebraicRule>" for total in sums)
    constants = "".join(
        f'<parameter id="c{i}_{k}" value="1" constant="true"/>' for i in range(count) for k in range(count)
    )
    return document(Parameters="".join(map(parameter, names)) + constants, Rules=zeros)


def with_stoichiometry(value):
    law = reaction_of("r", ci("k"), [reference("S", value)])
    return document(Compartments=BOX, Species=species("S"), Parameters=parameter("k"), Reactions=law)


SBML = {
    "functions that call another twice, one in the other": (
        functions(60, lambda f: call(f, call(f, ci("x")))),
        "with the calls of functions written out it has more than 200,000 operations",
    ),
    "functions that call another twice": (
        functions(60, lambda f: apply("times", call(f, ci("x")), call(f, apply("sin", ci("x"))))),
        "more than 200,000 operations",
    ),
    "a chain of functions": (functions(200, lambda f: call(f, ci("x"))), READ),
    "a function of itself": (
        document(FunctionDefinitions=function("f", ["x"], call("f", ci("x"))), Parameters=parameter("k")),
        "call each other in a circle",
    ),
    "the rate of a long formula": (
        document(
            FunctionDefinitions=chain(14, lambda f: apply("times", call(f, ci("x")), call(f, ci("x")))),
            Parameters=parameter("k") + parameter("j"),
            Rules=rule("assignment", "k", f"<apply>{RATE_OF}{call('f13', ci('j'))}</apply>"),
        ),
        "rateOf of",
    ),
    "rules that are squares of squares": (
        document(
            Parameters="".join(parameter(f"a{k}") for k in range(200)),
            Rules="".join(
                rule("assignment", f"a{k}", apply("times", ci(f"a{k - 1}"), ci(f"a{k - 1}"))) for k in range(1, 200)
            ),
        ),
        READ,
    ),
    "a rule of itself": (ruled(ci("k")), "form a circle"),
    "25 dense algebraic rules": (dense(25, lambda i, k: cn(1 + i * k % 7)), "25 unknowns become too long"),
    "12 symbolic algebraic rules": (dense(12, lambda i, k: ci(f"c{i}_{k}")), "12 unknowns become too long"),
    "4000 reactions with names for all they take": (
        document(
            Compartments=BOX,
            Species="".join(species(f"S{k}") for k in range(4000)),
            Reactions="".join(
                reaction_of(f"r{k}", ci(f"S{k}"), [reference(f"S{k}", extra=f'id="n{k}"')]) for k in range(4000)
            ),
        ),
        READ,
    ),
    "3000 rules after an event": (
        document(
            Parameters="".join(parameter(f"a{k}") for k in range(3000)),
            Rules="".join(rule("assignment", f"a{k}", apply("plus", ci(f"a{k - 1}"), cn(1))) for k in range(1, 3000)),
            Events=event("e", apply("gt", TIME, cn(1)), [("a0", cn(2))]),
        ),
        READ,
    ),
    "rates of rates": (
        document(
            Parameters="".join(parameter(f"a{k}") for k in range(60)),
            Rules=rule("rate", "a0", apply("times", ci("a0"), ci("a0")))
            + "".join(rule("assignment", f"a{k}", f"<apply>{RATE_OF}{ci(f'a{k - 1}')}</apply>") for k in range(1, 60)),
        ),
        "rateOf, and so on, more than 20 times",
    ),
    "models that contain another twice": (nested(40, "a", "b"), "more than 7,000 elements"),
    "models nested 60 deep": (nested(60, "a"), "nested more than 25 deep"),
    "models nested 10 deep": (nested(10, "a"), READ),
    "a model of itself": (composed(submodels("a", of="outer")), "modelRef leads in a circle"),
    "many large submodels": (
        composed(
            submodels(*(f"s{k}" for k in range(20))),
            definition(f"<listOfParameters>{''.join(parameter(f'x{k}') for k in range(1000))}</listOfParameters>"),
        ),
        "more than 7,000 elements",
    ),
    "a model that libsbml does not survive flattening": (
        BODY.replace("<sbml ", f'<sbml xmlns:x="{COMP}" x:required="true" '),
        "its submodels cannot be made one model: libsbml came to its end",
    ),
    "a file of another folder": (composed(submodels("a"), external("../x.xml")), "not one in the model's folder"),
    "a device": (composed(submodels("a"), external("/dev/zero")), "not one in the model's folder"),
    "a link to a device": (composed(submodels("a"), external("zero")), "not one in the model's folder"),
    "a pipe": (composed(submodels("a"), external("pipe")), "there is no file 'pipe'"),
    "a name of 5000 characters": (composed(submodels("a"), external("a" * 5000)), "there is no file 'aaa"),
    "1,5": (ruled(cn("1,5")), "line 8: '1,5' is no number of the type 'real'"),
    "1_000": (ruled(cn("1_000")), "'1_000' is no number"),
    "0x10": (ruled(cn("0x10")), "'0x10' is no number"),
    "an integer 1e308": (ruled('<cn type="integer">1e308</cn>'), "'1e308' is no number of the type 'integer'"),
    "digits of another script": (ruled(cn("１２")), "'１２' is no number"),
    "an exponent 1.5": (
        ruled('<cn type="e-notation">1<sep/>1.5</cn>'),
        "'1 1.5' is no number of the type 'e",
    ),
    "1e400": (ruled(cn("1e400")), "line 8"),
    "a hexadecimal value": (
        document(Parameters=parameter("k", "0x10")),
        "line 5: a number of this parameter is hex",
    ),
    "a hexadecimal size": (document(Compartments=BOX.replace('"2"', '"0x2"')), "of this compartment is hexadecimal"),
    "a value of 1e308": (document(Parameters=parameter("k", "1e308")), READ),
    "a stoichiometry of 1e308": (with_stoichiometry("1e308"), READ),
    "a stoichiometry of NaN": (with_stoichiometry("NaN"), "is no number, so it is not supported"),
    "a negative size": (document(Compartments=BOX.replace('"2"', '"-1"')), READ),
    "two of a name": (document(Parameters=parameter("k") * 2), "has the same id"),
    "two kinds of a name": (
        document(Compartments=BOX, Parameters=parameter("box")),
        "line 8: parameter 'box': line 5",
    ),
    "a name with a space": (document(Parameters=parameter("k is given")), "line 5"),
    **{
        f"a parameter {name}": (document(Parameters=parameter(name), Rules=rule("rate", name, ci(name))), READ)
        for name in ("time", "pi", "inf", "true", "exponentiale", "avogadro", "lambda", "__init__", "sin", "rateOf")
    },
}


@pytest.mark.parametrize("name", SBML)
def test_a_model(name, read, tmp_path):
    text, expected = SBML[name]
    (tmp_path / "model").mkdir()
    os.mkfifo(tmp_path / "model" / "pipe")
    (tmp_path / "model" / "zero").symlink_to("/dev/zero")
    path = tmp_path / "model" / "model.xml"
    path.write_text(text, encoding="utf-8")
    check(read(["sbml", str(path)]), expected, str(path))


def test_files_that_each_use_the_next_one_twice(read, tmp_path):
    for k in range(20):
        one = external(f"{k + 1}.xml")
        another = f'<comp:externalModelDefinition comp:id="b" comp:source="{k + 1}.xml"/>'
        both = one.replace("</comp:listOf", f"{another}</comp:listOf")
        (tmp_path / f"{k}.xml").write_text(composed(submodels("a"), both))
    (tmp_path / "20.xml").write_text(composed(GROWING))
    check(read(["sbml", str(tmp_path / "0.xml")]), "more than 7,000 elements", str(tmp_path))


@pytest.mark.parametrize("ending", ["zip", "gz", "bz2"])
def test_a_file_is_what_it_holds_whatever_its_ending(ending, read, tmp_path):
    path = tmp_path / f"model.{ending}"
    path.write_text(BODY)
    check(read(["sbml", str(path)]), READ)


# ---- formulas

FORMULAS = {
    "open brackets": ("(" * 10_000, "memory exhausted"),
    "10,000 brackets": ("(" * 10_000 + "x" + ")" * 10_000, "memory exhausted"),
    "10,000 sines": ("sin(" * 10_000 + "x" + ")" * 10_000, "memory exhausted"),
    "10,000 powers": ("^".join("x" * 10_001), "memory exhausted"),
    "1 MB": ("+".join("x" * 500_000), "more than 100,000 characters"),
    "a sum of 6000 terms": ("+".join("x" * 6000), "6,000 arguments, more than 5,000"),
    "a difference of 40,000 terms": ("-".join("x" * 40_000), READ),
    "a remainder of 40 terms": ("%".join("x" * 40), READ),
    "carets": ("^^^", "position 1: syntax error"),
    "an import": ("__import__('os').system('true')", "syntax error"),
    "a method": ("os.system('true')", "syntax error"),
    "an attribute": ("x.__class__", "syntax error"),
    "a lambda": ("lambda x: x", "syntax error"),
    "an f-string": ("f'{x}'", "syntax error"),
    "a call": ("eval(x)", "function 'eval' is not defined"),
    "a zero byte": ("x\0+ y", "characters other than ASCII"),
    "digits of another script": ("１２", "characters other than ASCII"),
    "1e400": ("1e400", "cannot read the formula '1e400'"),
    "0x10": ("0x10", "cannot read the formula '0x10'"),
    "1_000": ("1_000", "cannot read the formula '1_000'"),
    "5000 digits": ("9" * 5000, "cannot read the formula"),
    "a long name": ("x" * 50_000, READ),
    "nothing": ("", "it is empty"),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_formula(name, read):
    text, expected = FORMULAS[name]
    check(read(["formula", text]), expected)


def test_a_remainder_is_one_of_truncated_division():
    expected = {(7, 3): 1, (-7, 3): -1, (7, -3): 1, (-7, -3): -1, (6, 3): 0}
    for (x, y), rest in expected.items():
        assert parse(f"({x}) % ({y})") is const(rest) or parse(f"({x}) % ({y})").value == rest


def test_the_constants_of_formulas_are_those_listed():
    assert all(parse(name).op == "const" for name in CONSTANTS)
    for name in ("avogadro", "e", "E", "PI", "Pi", "INF", "NaN", "sin", "lambda", "degree", "t"):
        assert parse(name) is symbol(name)


# ---- YAML and tables


def tables():
    folder = MODELS / "lynx_hare"
    return {path.name: path.read_text() for path in folder.iterdir() if path.suffix in (".tsv", ".yaml", ".xml")}


def with_cell(name, row, column, value):
    lines = [line.split("\t") for line in tables()[name].splitlines()]
    lines[row][lines[0].index(column)] = value
    return {name: "\n".join("\t".join(cells) for cells in lines) + "\n"}


def with_yaml(old, new):
    text = tables()["problem.yaml"]
    assert old in text
    return {"problem.yaml": text.replace(old, new)}


def with_file(name):
    return with_yaml("parameter_file: parameters.tsv", f"parameter_file: {name}")


def all_with(ending):
    """All tables with other ends of lines."""
    return {name: text.replace("\n", ending) for name, text in tables().items() if name.endswith("tsv")}


YAML = tables()["problem.yaml"]
LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 30))
PETAB = {
    "anchors that double": ({"problem.yaml": LAUGHS + YAML}, "line 1, column 5"),
    "merged keys": ({"problem.yaml": "a: &a {x: 1}\nb: {<<: [*a, *a]}\n" + YAML}, "anchors, aliases and tags"),
    "an alias of itself": ({"problem.yaml": "problems: &a [*a]\n" + YAML}, "anchors, aliases and tags are not read"),
    "a tag that runs code": (
        {"problem.yaml": YAML + 'x: !!python/object/apply:os.system ["true"]\n'},
        "tags are not read",
    ),
    "a tag of a huge number": (with_yaml("n: 1", f'n: !!int "0x{"f" * 100_000}"'), "tags are not read"),
    "deep lists": ({"problem.yaml": "[" * 100_000}, "this is not YAML"),
    "deep maps": ({"problem.yaml": "{a: " * 10_000}, "this is not YAML"),
    "deep blocks": ({"problem.yaml": "- " * 10_000 + "x"}, "this is not YAML"),
    "a huge version": (with_yaml("n: 1", f"n: {'9' * 1500}"), "is not supported"),
    "an infinite version": (with_yaml("n: 1", "n: 1e400"), "is not supported"),
    "a list of versions": (with_yaml("n: 1", "n: [1]"), "format_version [1] is not supported"),
    "a key twice": ({"problem.yaml": YAML + "format_version: 1\n"}, "the key 'format_version' occurs twice"),
    "a list as a key": ({"problem.yaml": YAML + "? [a]\n: b\n"}, "unhashable key"),
    "a time of 60 seconds": ({"problem.yaml": YAML + "x: 1:30:60\ny: 2020-13-45\nz: on\n"}, READ),
    "two documents": ({"problem.yaml": YAML + "---\n" + YAML}, "a single document"),
    "a zero byte": ({"problem.yaml": YAML + "\0"}, "unacceptable character"),
    "2 MB of YAML": ({"problem.yaml": YAML + f"x: {'y' * 2_000_000}"}, "more than 1,048,576 characters"),
    "YAML in UTF-16": ({"problem.yaml": YAML.encode("utf-16")}, "byte 0 is not UTF-8"),
    "bytes": ({"problem.yaml": bytes(range(256))}, "byte 128 is not UTF-8"),
    "no YAML": ({"problem.yaml": ""}, "must hold `key: value` pairs"),
    "a file above": (with_file("../x.tsv"), "names '../x.tsv', outside"),
    "an absolute path": (with_file("/etc/passwd"), "names '/etc/passwd', outside"),
    "a device": (with_file("/dev/zero"), "outside"),
    "a link to a device": (with_file("zero"), "outside"),
    "a link to itself": (with_file("loop"), "no such file"),
    "a pipe": (with_file("pipe"), "no such file"),
    "a folder": (with_file("folder"), "no such file"),
    "another case": (with_file("Parameters.TSV"), "no such file"),
    "a name of 10,000 characters": (with_file("a" * 10_000), "no such file"),
    "3000 folders": (with_file("a/" * 3000), "no such file"),
    "half a character": (with_file(r'"\ud800.tsv"'), "must be a list of file names"),
    "a zero byte in a name": (with_file(r'"a\0b"'), "must be a list of file names"),
    "a number": (with_file("3"), "must be a list of file names"),
    "a list in a list": (with_file("[[parameters.tsv]]"), "must be a list of file names"),
    "ends of lines of Windows": (all_with("\r\n"), READ),
    "ends of lines of old Macs": (all_with("\r"), READ),
    "a mark of UTF-8": ({"parameters.tsv": codecs.BOM_UTF8 + tables()["parameters.tsv"].encode()}, READ),
    "a table in UTF-16": ({"parameters.tsv": tables()["parameters.tsv"].encode("utf-16")}, "save the file as UTF-8"),
    "a table in Latin-1": ({"parameters.tsv": (tables()["parameters.tsv"] + "ä").encode("latin-1")}, "is not UTF-8"),
    "an empty table": ({"parameters.tsv": ""}, "the column 'parameterId' is missing"),
    "100,000 columns": ({"conditions.tsv": "conditionId" + "\tc" * 100_000}, "occur twice"),
    "100,000 other columns": ({"observables.tsv": "\t".join(f"c{k}" for k in range(100_000))}, "is missing"),
    "a cell of 1 MB": ({"parameters.tsv": tables()["parameters.tsv"] + "x" * 1_000_000}, "field larger than"),
    "an open quotation mark": ({"parameters.tsv": tables()["parameters.tsv"].replace("\n", '\n"', 1)}, "line 9"),
    "a table that goes twice": (with_file("[parameters.tsv, parameters.tsv]"), "'alpha' is defined already"),
    **{
        f"a {column} of {value[:9]!r}": (with_cell("parameters.tsv", 1, column, value), f"column '{column}'")
        for column in ("lowerBound", "nominalValue")
        for value in ("0x10", "1_000", "1,5", "１２", "٣", "abc", "1d5", "--1")
    },
    **{
        f"a {column} of {value[:9]!r}": (with_cell("measurements.tsv", 1, column, value), f"column '{column}'")
        for column in ("time", "measurement")
        for value in ("0x10", "1_000", "1,5", "１２", "nan", "", "1e400")
    },
    "a prior of 1e308": (with_cell("parameters.tsv", 5, "objectivePriorParameters", "1e308;1e308"), "line 6"),
    "a parameter pi": (with_cell("parameters.tsv", 1, "parameterId", "pi"), "'pi' means something else in formulas"),
    "a parameter time": (with_cell("parameters.tsv", 1, "parameterId", "time"), "means something else in formulas"),
    "an observable like a parameter": (
        with_cell("observables.tsv", 1, "observableId", "alpha"),
        "'observableId': 'alpha' is a parameter, in",
    ),
    "a parameter with a space": (with_cell("parameters.tsv", 1, "parameterId", "hare is given"), "is no id"),
    "10^9 placeholders": (
        with_cell("observables.tsv", 1, "observableFormula", "observableParameter999999999_hare_pelts"),
        "cannot fill in more than 999 values",
    ),
    "a placeholder of 5000 digits": (
        with_cell("observables.tsv", 1, "noiseFormula", f"noiseParameter{'9' * 5000}_hare_pelts"),
        "cannot fill in more than 999 values",
    ),
    "code in a formula": (with_cell("observables.tsv", 1, "observableFormula", "__import__('os')"), "line 2, column"),
}


@pytest.mark.parametrize("name", PETAB)
def test_a_problem(name, read, tmp_path):
    files, expected = PETAB[name]
    for file, text in {**tables(), **files}.items():
        (tmp_path / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    check(read(["petab", str(tmp_path / "problem.yaml")]), expected, str(tmp_path))


def test_a_constant_of_formulas_may_not_be_a_name_of_the_model(read, tmp_path):
    for file, text in tables().items():
        (tmp_path / file).write_text(text)
    (tmp_path / "model.xml").write_text(tables()["model.xml"].replace('"hare_0"', '"pi"').replace(" hare_0 ", " pi "))
    (tmp_path / "parameters.tsv").write_text(tables()["parameters.tsv"].replace("hare_0", "hare_1"))
    formula = with_cell("observables.tsv", 1, "observableFormula", "2 * pi")["observables.tsv"]
    (tmp_path / "observables.tsv").write_text(formula)
    check(read(["petab", str(tmp_path / "problem.yaml")]), "['pi'] are numbers in formulas, but names in the model")


def test_a_table_of_too_many_cells_is_refused_on_its_way(tmp_path, monkeypatch):
    monkeypatch.setattr(petab_table, "_MOST_CELLS", 10)
    path = tmp_path / "table.tsv"
    path.write_text("a\tb\n" * 20)
    with pytest.raises(PEtabError, match=f"{path}, line 6: the table has more than 10 cells"):
        list(read_rows(path, ()))
    path.write_text("\n" * 20)
    with pytest.raises(PEtabError, match="line 11"):
        list(read_rows(path, ()))


DATA = {
    "nothing": ("", "there are no measurements"),
    "a zero byte": ("time,hare\n0,1\0\n", "line 2, column 'hare'"),
    "digits of another script": ("time,hare\n0,１２\n", "line 2, column 'hare'"),
    "too large a number": ("time,hare\n0,1e400\n", "line 2, column 'hare'"),
    "large numbers": ("time,hare\n0,1e308\n1,-1e308\n", "the lower bound inf is not below"),
    "100,000 columns": (
        "time," + ",".join(f"c{k}" for k in range(100_000)) + "\n0" + ",1" * 100_000,
        "no quantity 'c0'",
    ),
    "a long name": (f"time,{'x' * 100_000}\n0,1\n", "the model has no quantity"),
    "a negative time": ("time,hare\n-1,1\n", "-1.0 lies before the start"),
    "numbers": ("time,hare\n0,1\n1,2\n", READ),
}


@pytest.mark.parametrize("name", DATA)
def test_measurements_for_a_first_problem(name, read, tmp_path):
    text, expected = DATA[name]
    path = tmp_path / "data.csv"
    path.write_text(text, encoding="utf-8")
    check(read(["table", str(MODELS / "lynx_hare" / "model.xml"), str(path), str(tmp_path / "new")]), expected)


# ---- Antimony

ANTIMONY = {
    "a long difference": ("x = " + "-".join("1" * 5000), "the library antimony came to its end"),
    "a deep formula": ("y = 1; x := " + "sin(" * 500 + "y" + ")" * 500, READ),
    "10,000 brackets": ("y = 1; x := " + "(" * 10_000 + "y" + ")" * 10_000, "memory exhausted"),
    "10,000 powers": ("y = 1; x := " + "^".join("y" * 10_000), "line 1"),
    "functions of functions": (
        "function f0(x)\n x*x\nend\n"
        + "".join(f"function f{k}(x)\n f{k - 1}(f{k - 1}(x))\nend\n" for k in range(1, 40))
        + "y = 1; z := f39(y)",
        "more than 200,000 operations",
    ),
    "an import after many comments": ("x = 1; import " + "/**/" * 40 + "x", "syntax error"),
    "an import in a comment without end": ('/* import "a"', "line 1: a comment does not end"),
    "100,000 imports in such comments": ("import /*" * 100_000, "line 1: a comment does not end"),
    "100,000 imports": ('import "a"\n' * 100_000, "there is no file 'a'"),
    "100,000 texts before an import": ('"a"\n' * 100_000 + 'import "x"', "line 100001: there is no file 'x'"),
    "a model of itself": ("model m\n a: m()\nend", "line 3"),
    "a rule of itself": ("x := x + 1", "Loop detected"),
    "a very long number": ("x = " + "9" * 100_000, "line 1"),
    "carets": ("^^^", "syntax error"),
    "bytes": (bytes(range(1, 256)), "no text in UTF-8"),
    "UTF-16": ("x = 1".encode("utf-16"), "no text in UTF-8"),
    "ends of lines of old Macs": ("x = 1\rx' = -x", READ),
    "a mark of UTF-8": (codecs.BOM_UTF8 + b"x = 1; x' = -x", READ),
    "a device": ('import "/dev/zero"', "leaves the folder of the model"),
    "a link to a device": ('import "zero"', "leaves the folder of the model"),
    "a pipe": ('import "pipe"', "there is no file 'pipe'"),
    "a name of 10,000 characters": (f'import "{"a" * 10_000}"', "there is no file 'aaa"),
    "a link to itself": ('import "loop"', "there is no file 'loop'"),
    "a folder": ('import "."', "there is no file '.'"),
}


@pytest.mark.parametrize("name", ANTIMONY)
def test_a_model_in_antimony(name, read, tmp_path):
    pytest.importorskip("antimony")
    text, expected = ANTIMONY[name]
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    path = tmp_path / "model.ant"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    check(read(["antimony", str(path)]), expected, str(path))


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "model m0\n x = 1; x' = -x\nend\n"
        + "".join(f"model m{k}\n a: m{k - 1}(); b: m{k - 1}()\nend\n" for k in range(1, 30)),
        "x = " + "-".join("1" * 50_000),
        "y = 1; x := " + "+".join("y" * 50_000),
    ],
)
def test_antimony_that_takes_all_time_or_memory(text, read, tmp_path):
    pytest.importorskip("antimony")
    path = tmp_path / "model.ant"
    path.write_text(text)
    check(read(["antimony", str(path)]), "the library antimony", str(path))


# ---- files


@pytest.mark.parametrize("kind", ["sbml", "petab", "antimony"])
def test_what_is_no_file(kind, read, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("", "pipe", "loop", "nothing", "a" * 5000, "a\0b"):
        path = str(tmp_path / name)
        outcome = read([kind, path])
        assert (outcome.kind, outcome.error) == ("refused", "FileNotFoundError"), outcome
        assert path in outcome.message
    assert read([kind, "/dev/zero"]).error == "FileNotFoundError"


@pytest.mark.parametrize("kind", ["sbml", "petab", "antimony"])
def test_a_file_that_is_too_large(kind, read, tmp_path):
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, LARGEST + 1)
    check(read([kind, str(path)]), "it has more than 100 MiB, the most that is read", str(path))


def test_a_file_that_may_not_be_read_is_named(tmp_path):
    path = tmp_path / "secret"
    path.write_text("x")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("whoever runs this may read everything")
    with pytest.raises(PermissionError, match="secret"):
        read_bytes(path, "file", PEtabError)


def test_links_are_followed_before_a_file_counts_as_inside(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "out").symlink_to(tmp_path)
    (tmp_path / "linked").symlink_to(tmp_path / "inner")
    folder = tmp_path / "linked"
    assert is_inside(folder, "a.tsv")
    assert is_inside(folder, "b/../a.tsv")
    assert not is_inside(folder, "out/a.tsv")
    assert not is_inside(folder, "../a.tsv")
    assert not is_inside(folder, "a\0b")


def test_what_is_shown_of_a_file_is_short():
    bomb = ["x"]
    for _ in range(100):
        bomb = [bomb] * 10
    assert len(shown(bomb)) < 100_000
    assert shown("a" * 10_000).startswith("'aaa")
    assert len(shown("a" * 10_000)) < 300
    assert shown(["a", 1, None]) == "['a', 1, None]"

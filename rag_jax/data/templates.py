"""The sentences, questions and summaries that facts are put into.

A kind of entity is a table in `tables/`; a relation is one of its columns. In
a template {x} is what the entity is called, {v} the value and {n} a few other
entities of the kind, which distract. Of the questions of a relation the last
two are held out for `test_phrasing`. `REVERSED` questions ask for the entity.
"""

# Names that need an article, or a kind because they would fit two documents.
NAMES = {
  ('countries', 'Georgia'): 'the country of Georgia',
  ('states', 'Georgia'): 'the U.S. state of Georgia',
  ('states', 'New York'): 'the state of New York',
  ('states', 'Washington'): 'the state of Washington',
  ('elements', 'Mercury'): 'the element Mercury',
  ('planets', 'Mercury'): 'the planet Mercury',
} | {
  ('countries', name): f'the {name}'
  for name in (
    'Bahamas',
    'Central African Republic',
    'Comoros',
    'Czech Republic',
    'Democratic Republic of the Congo',
    'Dominican Republic',
    'Gambia',
    'Maldives',
    'Marshall Islands',
    'Netherlands',
    'Philippines',
    'Republic of the Congo',
    'Solomon Islands',
    'United Arab Emirates',
    'United Kingdom',
    'United States',
  )
}

# kind -> first sentences, without any fact that is asked for.
OPENINGS = {
  'countries': (
    '{x} is a sovereign state and a member of the United Nations.',
    'This article is about {x}, one of the countries of the world.',
    'Among the countries of the world, {x} is the subject of this page.',
    'Travellers and students often read about {x}, a sovereign country.',
  ),
  'elements': (
    '{x} is a chemical element of the periodic table.',
    'In chemistry, {x} is one of the known elements.',
    'This article is about {x}, one of the chemical elements.',
    'Every periodic table has a place for {x}, a chemical element.',
  ),
  'states': (
    '{x} is one of the fifty states of the United States of America.',
    'This article is about {x}, a state of the American union.',
    'Among the fifty American states, {x} is the subject of this page.',
    'The union has fifty members, and {x} is one of them.',
  ),
  'presidents': (
    '{x} was an American politician and head of state.',
    'Among American statesmen, {x} reached the highest office.',
    'This article is about {x}, who led the United States.',
    'The history of the United States names {x} among its leaders.',
  ),
  'books': (
    '{x} is a well known work of literature.',
    'Among the classics of literature, {x} is still widely read.',
    'This article is about {x}, a famous book in prose.',
    'Many schools and libraries keep copies of {x}, a classic book.',
  ),
  'planets': (
    '{x} is a planet that goes around the Sun.',
    'This article is about {x}, a world of the solar system.',
    'The solar system has eight planets, and {x} is one of them.',
  ),
}

# kind -> sentences without an answer; {n} names other entities.
FILLERS = {
  'countries': (
    'It is a member of the United Nations together with {n}.',
    'It sends a delegate to the General Assembly, just as {n} do.',
    'Atlases show it on the same kind of page as {n}.',
    'Its flag and its anthem are among its national symbols.',
    'It should not be confused with {n}, which are other countries.',
  ),
  'elements': (
    'Its properties are listed in every handbook of chemistry.',
    'Students of the periodic table also learn the names {n}.',
    'Tables of data give its values beside those of {n}.',
    'It should not be confused with {n}, which are other elements.',
    'Its name is known to chemists in all parts of the world.',
  ),
  'states': (
    'It elects two senators, as do {n}.',
    'Like {n}, it has a governor and a legislature of its own.',
    'The federal constitution applies in it just as in {n}.',
    'Its courts, schools and roads are run by its own government.',
  ),
  'presidents': (
    'The same office was also held by {n}.',
    'The papers of this president are kept for historians.',
    'Libraries hold biographies of this president and of {n}.',
    'In the gallery of presidents there are portraits of {n} as well.',
  ),
  'books': (
    'Many libraries keep copies of it and of {n}.',
    'It has been translated into other languages many times.',
    'It should not be confused with {n}, which are other books.',
    'New editions with notes for students appear again and again.',
    'Lists of great books often name {n} as well.',
  ),
  'planets': (
    'Space probes have taken many pictures of it.',
    'Other planets of the solar system are {n}.',
    'Astronomers compare its path with the paths of {n}.',
    'Like {n}, it moves around the Sun on an ellipse.',
    'It shines by the light of the Sun, just as {n} do.',
  ),
}

# (kind, relation) -> sentences of the document.
SENTENCES = {
  ('countries', 'capital'): (
    'The capital of {x} is {v}.',
    'The city of {v} is its capital.',
    '{v} serves as the capital of {x}.',
    'Its capital city is called {v}.',
  ),
  ('countries', 'currency'): (
    'The currency used there has the code {v}.',
    'Prices are given in its money, whose currency code is {v}.',
    'Banks write {v} as the code of its currency.',
  ),
  ('countries', 'continent'): (
    'It lies on the continent of {v}.',
    'On maps it is found in {v}, its continent.',
    'Geographers count it to {v} when they group countries by continent.',
  ),
  ('countries', 'calling_code'): (
    'Telephone numbers there start with the calling code {v}.',
    'The calling code for a telephone call to {x} is {v}.',
    'Callers from abroad dial {v}, its calling code, before the number.',
  ),
  ('countries', 'domain'): (
    'Its internet domain is {v} for all web addresses.',
    'Web addresses of {x} end in the internet domain {v}.',
    'On the internet the domain {v} belongs to it.',
  ),
  ('countries', 'demonym'): (
    'The demonym for its people is {v}.',
    'Its people are described by the demonym {v}.',
    'The word {v} is the demonym of {x}.',
  ),
  ('countries', 'neighbours'): (
    'It shares land borders with {v}.',
    'Its neighbours by land are countries such as {v}.',
    'By land it borders on {v}.',
  ),
  ('elements', 'symbol'): (
    'Its chemical symbol is {v}.',
    'Chemists write it with the symbol {v}.',
    'In formulas {x} is written with the symbol {v}.',
    'The symbol {v} stands for it.',
  ),
  ('elements', 'number'): (
    'Its atomic number is {v}, the count of protons in a nucleus.',
    'It has {v} protons in the nucleus, and that is its atomic number.',
    'A nucleus of {x} has {v} protons, which is the atomic number.',
  ),
  ('elements', 'period'): (
    'It stands in period {v} of the table.',
    'In the table it belongs to period {v}.',
    'The row of the table where it stands is period {v}.',
  ),
  ('elements', 'group'): (
    'It is placed in group {v}, a column of the table.',
    'Its column of the table is group {v}.',
    'The elements of group {v} form the column of {x}.',
  ),
  ('elements', 'category'): (
    'By its properties it is classed as a {v}.',
    'Its category is that of a {v}.',
    'The category in which chemists put it is {v}.',
  ),
  ('elements', 'year'): (
    'It was discovered in the year {v}.',
    'The year of its discovery was {v}.',
    'Its discovery is dated to {v}.',
  ),
  ('states', 'capital'): (
    'The capital of {x} is {v}.',
    'Its legislature meets in the capital, {v}.',
    'The city of {v} is its capital.',
    '{v} serves as the capital, where the governor works.',
  ),
  ('states', 'abbreviation'): (
    'Letters carry its postal abbreviation {v}.',
    'The postal abbreviation of {x} is {v}.',
    'The post office writes {v}, the abbreviation of the state.',
  ),
  ('states', 'year'): (
    'It was admitted to the union in {v}.',
    'It joined the union as a state in the year {v}.',
    'The year {v} saw it become a state of the union.',
  ),
  ('states', 'largest_city'): (
    'Its largest city by population is {v}.',
    'Among its cities {v} is the largest city by population.',
    'No other city of the state is as large as {v}.',
  ),
  ('states', 'nickname'): (
    'Its nickname is {v}.',
    'On many signs it goes by the nickname {v}.',
    'People know {x} by its nickname, {v}.',
  ),
  ('presidents', 'ordinal'): (
    '{x} was the {v} president of the United States.',
    'In the list of presidents, {x} comes {v}.',
    'This president stands {v} in the list of all presidents.',
  ),
  ('presidents', 'party'): (
    'The political party of {x} was the {v} Party.',
    'In party politics this president was a member of the {v} Party.',
    'The {v} Party was the political party of the president.',
  ),
  ('presidents', 'birth_state'): (
    'The birthplace lies in what is now the state of {v}.',
    'The birthplace of {x} is in {v}.',
    '{x} was born in {v}.',
  ),
  ('presidents', 'took_office'): (
    'The term as president began in {v}.',
    'The president took office in the year {v}.',
    'The first day in office of {x} was in {v}.',
  ),
  ('presidents', 'born'): (
    'The year of birth was {v}.',
    'The later president came into the world in {v}.',
    'The birth of {x} is dated to the year {v}.',
  ),
  ('books', 'author'): (
    'The author of the book is {v}.',
    'It was written by {v}.',
    '{v} wrote it.',
    'The name of {v}, its author, stands on the cover.',
  ),
  ('books', 'year'): (
    'It was first published in {v}.',
    'The year of its publication was {v}.',
    'Readers could first buy it in {v}, when it was published.',
  ),
  ('books', 'language'): (
    'It was written in {v}.',
    'Its original language is {v}.',
    'The author wrote it in the {v} language.',
  ),
  ('books', 'character'): (
    'One of its characters is {v}.',
    'A well known character of the story is {v}.',
    'Its readers remember {v}, a character of the book.',
  ),
  ('planets', 'ordinal'): (
    'It is the {v} planet from the Sun.',
    'Counted from the Sun, the planet comes {v}.',
    '{x} holds the {v} place in the count of planets from the Sun.',
  ),
  ('planets', 'type'): (
    'By its type it is a {v} planet.',
    'Its type of planet is {v}.',
    'Astronomers give the type of {x} as {v}.',
  ),
  ('planets', 'namesake'): (
    'It is named after the {v}.',
    'Its name comes from the {v}.',
    'The {v} gave the planet its name.',
  ),
  ('planets', 'moon'): (
    'Its largest moon is {v}.',
    'The largest moon that goes around it is {v}.',
    'Of what goes around {x}, the largest moon is {v}.',
  ),
}

# (kind, relation) -> questions for the value; the last two are held out.
QUESTIONS = {
  ('countries', 'capital'): (
    'What is the capital of {x}?',
    'Which city is the capital of {x}?',
    'What is the name of the capital city of {x}?',
    '{x} has which city as its capital?',
    'What city is the capital of {x}?',
    'Which capital does {x} have?',
  ),
  ('countries', 'currency'): (
    'What is the currency code of {x}?',
    'Which code has the currency used in {x}?',
    'What is the code of the money of {x}?',
    'With which currency code are prices given in {x}?',
    'Which currency code is used in {x}?',
    'What code has the money of {x}?',
  ),
  ('countries', 'continent'): (
    'On which continent is {x}?',
    'Which continent does {x} lie on?',
    'What is the continent of {x}?',
    'To which continent does {x} belong?',
    'Which is the continent of {x}?',
    'On what continent does {x} lie?',
  ),
  ('countries', 'calling_code'): (
    'What is the calling code of {x}?',
    'Which calling code is used for {x}?',
    'With which code do telephone numbers of {x} start?',
    'What calling code does a telephone call to {x} need?',
    'Telephone numbers in {x} start with which calling code?',
    'Which calling code belongs to {x}?',
  ),
  ('countries', 'domain'): (
    'What is the internet domain of {x}?',
    'Which internet domain belongs to {x}?',
    'With what domain do web addresses of {x} end?',
    'What domain is used on the internet for {x}?',
    'Web addresses in {x} end in which domain?',
    'Which domain does {x} have on the internet?',
  ),
  ('countries', 'demonym'): (
    'What is the demonym for the people of {x}?',
    'By which demonym are people from {x} described?',
    'Which demonym is used for people of {x}?',
    'What demonym belongs to {x}?',
    'What is the demonym of {x}?',
    'What demonym is used for people from {x}?',
  ),
  ('elements', 'symbol'): (
    'What is the chemical symbol of {x}?',
    'Which symbol is used for {x}?',
    'With which symbol do chemists write {x}?',
    'What symbol does {x} have?',
    'Which chemical symbol does {x} have?',
    '{x} has which symbol?',
  ),
  ('elements', 'number'): (
    'What is the atomic number of {x}?',
    'How many protons does {x} have?',
    'Which atomic number belongs to {x}?',
    'How many protons are in the nucleus of {x}?',
    '{x} has which atomic number?',
    'A nucleus of {x} has how many protons?',
  ),
  ('elements', 'period'): (
    'In which period of the table is {x}?',
    'Which period does {x} belong to?',
    'What is the period of {x}?',
    'In what period does {x} stand?',
    '{x} belongs to which period?',
    'In which period of the table does {x} stand?',
  ),
  ('elements', 'group'): (
    'In which group of the table is {x}?',
    'Which group does {x} belong to?',
    'What is the group of {x}?',
    'In what group of the table is {x} placed?',
    '{x} is placed in which group?',
    'To what group does {x} belong?',
  ),
  ('elements', 'category'): (
    'What category of element is {x}?',
    'Which category does {x} belong to?',
    'How is {x} classed by its properties?',
    'What is the category of {x}?',
    '{x} is classed as what?',
    'To which category of element does {x} belong?',
  ),
  ('elements', 'year'): (
    'When was {x} discovered?',
    'In which year was {x} discovered?',
    'What year was {x} discovered in?',
    'What is the year of discovery of {x}?',
    '{x} was discovered in which year?',
    'What was the year of the discovery of {x}?',
  ),
  ('states', 'capital'): (
    'What is the capital of {x}?',
    'Which city is the capital of {x}?',
    'What is the name of the capital city of {x}?',
    '{x} has which city as its capital?',
    'In which capital does the legislature of {x} meet?',
    'What city is the capital of {x}?',
    'Which capital does {x} have?',
  ),
  ('states', 'abbreviation'): (
    'What is the postal abbreviation of {x}?',
    'Which postal abbreviation is used for {x}?',
    'What abbreviation do letters to {x} carry?',
    'Which abbreviation does the post office write for {x}?',
    'Letters to {x} carry which abbreviation?',
    'What postal abbreviation does {x} have?',
  ),
  ('states', 'year'): (
    'When did {x} join the union?',
    'In which year was {x} admitted to the union?',
    'When was {x} admitted to the union?',
    'What year did {x} become a state?',
    'In which year did {x} join the union?',
    '{x} was admitted to the union in what year?',
  ),
  ('states', 'largest_city'): (
    'What is the largest city of {x}?',
    'Which city of {x} is the largest?',
    'What is the name of the largest city of {x}?',
    'Which city is the largest in {x} by population?',
    '{x} has which city as its largest?',
    'By population, what is the largest city of {x}?',
  ),
  ('states', 'nickname'): (
    'What is the nickname of {x}?',
    'Which nickname does {x} have?',
    'By which nickname do people know {x}?',
    'What nickname is used for {x}?',
    '{x} goes by which nickname?',
    'By what nickname do people know {x}?',
  ),
  ('presidents', 'ordinal'): (
    'In the list of presidents, which place has {x}?',
    'Which president of the United States was {x} by number?',
    'What number has {x} among the presidents?',
    'Where in the list of presidents does {x} come?',
    '{x} has which place among the presidents?',
    'What is the number of {x} in the list of presidents?',
  ),
  ('presidents', 'party'): (
    'What was the party of {x}?',
    'Which political party did {x} belong to?',
    'To which party did {x} belong?',
    'Of which political party was {x} a member?',
    'What was the political party of {x}?',
    '{x} was a member of which party?',
  ),
  ('presidents', 'birth_state'): (
    'In which state was {x} born?',
    'Where was {x} born?',
    'What is the birthplace of {x}?',
    'Which state is the birthplace of {x}?',
    '{x} was born in which state?',
    'In what state is the birthplace of {x}?',
  ),
  ('presidents', 'took_office'): (
    'When did {x} take office?',
    'In which year did the term of {x} as president begin?',
    'What year did {x} take office?',
    'When did the term of {x} begin?',
    'In which year did {x} take office?',
    'The term of {x} as president did begin in what year?',
  ),
  ('presidents', 'born'): (
    'What is the year of birth of {x}?',
    'In which year was {x} born?',
    'What was the birth year of {x}?',
    'When was {x} born?',
    'What year was {x} born in?',
    '{x} was born in which year?',
  ),
  ('books', 'author'): (
    'Who is the author of {x}?',
    'Who wrote {x}?',
    'By whom was {x} written?',
    'Which author wrote {x}?',
    'What is the name of the author of {x}?',
    '{x} was written by whom?',
  ),
  ('books', 'year'): (
    'When was {x} published?',
    'In which year was {x} first published?',
    'What is the year of publication of {x}?',
    'What year was {x} published in?',
    '{x} was first published in which year?',
    'What was the year when {x} was published?',
  ),
  ('books', 'language'): (
    'In which language was {x} written?',
    'What is the original language of {x}?',
    'Which language was {x} written in?',
    'What language did the author of {x} use?',
    '{x} was written in which language?',
    'In what language did the author write {x}?',
  ),
  ('planets', 'ordinal'): (
    'Which planet from the Sun is {x}?',
    'Counted from the Sun, which place has {x}?',
    'Where does {x} come, counted from the Sun?',
    'What place has {x} among the planets from the Sun?',
    '{x} has which place from the Sun?',
    'Among the planets counted from the Sun, where does {x} come?',
  ),
  ('planets', 'type'): (
    'What type of planet is {x}?',
    'Which type does {x} belong to?',
    'By its type, what planet is {x}?',
    'What is the type of {x}?',
    '{x} is which type of planet?',
    'To which type of planet does {x} belong?',
  ),
  ('planets', 'namesake'): (
    'After whom is {x} named?',
    'Who is {x} named after?',
    'From whom does the name of {x} come?',
    'Where does the name of {x} come from?',
    '{x} is named after whom?',
    'From whom does {x} have the name?',
  ),
  ('planets', 'moon'): (
    'What is the largest moon of {x}?',
    'Which moon of {x} is the largest?',
    'What is the name of the largest moon of {x}?',
    'Which is the largest moon that goes around {x}?',
    '{x} has which largest moon?',
    'Which largest moon does {x} have?',
  ),
}

# (kind, relation) -> questions for the entity, where the value names but one.
REVERSED = {
  ('countries', 'capital'): (
    'Which country has the capital {v}?',
    '{v} is the capital of which country?',
    'Of which country is {v} the capital?',
    'What country has {v} as its capital?',
    'The city of {v} is the capital of what country?',
    'What country is it that has the capital {v}?',
  ),
  ('countries', 'domain'): (
    'Which country has the internet domain {v}?',
    'The internet domain {v} belongs to which country?',
    'In what country do web addresses end in {v}?',
    'Which country has {v} as its domain?',
    'What country has the internet domain {v}?',
    'Web addresses of which country end in {v}?',
  ),
  ('elements', 'symbol'): (
    'Which element has the symbol {v}?',
    'What element has the chemical symbol {v}?',
    'The symbol {v} is used for which element?',
    'Which element do chemists write as {v}?',
    '{v} is the symbol of which element?',
    'Which element has the chemical symbol {v}?',
  ),
  ('elements', 'number'): (
    'Which element has the atomic number {v}?',
    'The atomic number {v} belongs to which element?',
    'Which element has {v} protons in the nucleus?',
    'What element has {v} as its atomic number?',
    '{v} is the atomic number of which element?',
    'What element has {v} protons?',
  ),
  ('states', 'capital'): (
    'Which state has the capital {v}?',
    '{v} is the capital of which state?',
    'Of which state is {v} the capital?',
    'What state has {v} as its capital?',
    'The city of {v} is the capital of what state?',
    'What state has the capital {v}?',
  ),
  ('states', 'abbreviation'): (
    'Which state has the postal abbreviation {v}?',
    'What state is it if letters carry the abbreviation {v}?',
    'The postal abbreviation {v} is used for which state?',
    'Which state has {v} as its abbreviation?',
    '{v} is the postal abbreviation of which state?',
    'What state has the abbreviation {v}?',
  ),
  ('states', 'nickname'): (
    'Which state has the nickname {v}?',
    'What state goes by the nickname {v}?',
    'The nickname {v} is used for which state?',
    'Which state do people know as {v}?',
    '{v} is the nickname of which state?',
    'What state has the nickname {v}?',
  ),
  ('presidents', 'ordinal'): (
    'Who was the {v} president of the United States?',
    'Which president comes {v} in the list of presidents?',
    'Who was the {v} president?',
    'Who has the {v} place among the presidents?',
    'Which president was the {v} by number?',
    'Who comes {v} in the list of presidents?',
  ),
  ('books', 'author'): (
    'Which book was written by {v}?',
    'What book did {v} write?',
    'Of which book is {v} the author?',
    'Which book has {v} as its author?',
    '{v} is the author of which book?',
    '{v} wrote which book?',
  ),
  ('books', 'character'): (
    'In which book is {v} a character?',
    'Which book has the character {v}?',
    'To which book does the character {v} belong?',
    'What book has {v} as a character?',
    '{v} is a character of which book?',
    'The character {v} belongs to which book?',
  ),
  ('planets', 'ordinal'): (
    'Which planet is the {v} from the Sun?',
    'What planet comes {v}, counted from the Sun?',
    'Which planet has the {v} place from the Sun?',
    'What is the {v} planet from the Sun?',
    'Counted from the Sun, which planet is the {v}?',
    'Which planet comes {v} from the Sun?',
  ),
  ('planets', 'moon'): (
    'Which planet has the largest moon {v}?',
    '{v} is the largest moon of which planet?',
    'Of which planet is {v} the largest moon?',
    'Around which planet does the moon {v} go?',
    'What planet has {v} as its largest moon?',
    'The moon {v} goes around which planet?',
  ),
}

# kind -> summaries; a value that is missing leaves its sentence out.
SUMMARIES = {
  'countries': (
    '{x} is a country in {continent}.',
    'The capital of {x} is {capital} and its currency code is {currency}.',
  ),
  'elements': (
    '{x} is a chemical element with the symbol {symbol}.',
    'Its atomic number is {number}.',
  ),
  'states': (
    '{x} is a state of the United States with the capital {capital}.',
    'It joined the union in {year}.',
  ),
  'presidents': (
    '{x} was the {ordinal} president of the United States.',
    'The term began in {took_office}.',
  ),
  'books': (
    '{x} is a book by {author}, written in {language}.',
    'It was first published in {year}.',
  ),
  'planets': (
    '{x} is the {ordinal} planet from the Sun.',
    'It is a {type} planet.',
  ),
}
